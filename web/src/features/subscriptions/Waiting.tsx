// SPDX-License-Identifier: Apache-2.0
import { Alert, Button, Group, Text } from '@mantine/core';
import { useMutation } from '@tanstack/react-query';
import { useMay } from '@/api/session';
import { formatDate, formatNumber } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { type Subscription, takeBack, useSubscriptionsChanged } from './subscriptions';
import { subscriptionTexts } from './texts';

/** What will change by itself, and the way to prevent it. */
export function Waiting({ subscription }: { subscription: Subscription }) {
  const own = useTexts(subscriptionTexts);
  const { locale } = useLocale();
  const mayChange = useMay('manage_subscriptions');
  const changed = useSubscriptionsChanged();
  const keep = useMutation({
    mutationFn: async () => {
      await takeBack(subscription);
      await changed();
    },
  });
  const waiting = subscription.scheduled_change;
  if (!waiting) return null;
  const extras = waiting.add_ons.map((one) =>
    one.quantity
      ? own.toQuantity(one.name, formatNumber(one.quantity, locale))
      : own.without(one.name),
  );
  const what = [...(waiting.plan ? [own.toPlan(waiting.plan)] : []), ...extras].join(', ');
  return (
    <Alert variant="light" color="sky" role="note">
      <Group justify="space-between">
        <div>
          <Text size="sm" fw={600}>
            {own.waits(what, formatDate(waiting.at, locale))}
          </Text>
          {waiting.reason && (
            <Text size="sm">
              {own.announced} {waiting.reason}
            </Text>
          )}
        </div>
        {mayChange && !waiting.reason && (
          <Button variant="default" loading={keep.isPending} onClick={() => keep.mutate()}>
            {own.keepAsItIs}
          </Button>
        )}
      </Group>
      <ProblemAlert error={keep.error} />
    </Alert>
  );
}
