// SPDX-License-Identifier: Apache-2.0
import { Button, Card, Group, Stack, Text, Title } from '@mantine/core';
import { useMay } from '@/api/session';
import { formatDate, formatMoney, formatPeriod } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { StateBadge } from '@/ui/StateBadge';
import { AddOns } from './AddOns';
import { PlanChanges } from './PlanChanges';
import { SubscriptionStatus } from './SubscriptionStatus';
import type { Change, Subscription } from './subscriptions';
import { intervalTexts, subscriptionTexts } from './texts';
import { Waiting } from './Waiting';

type Props = { subscription: Subscription; onChange: (change: Change) => void };

/** One subscription: how it stands, what waits, and what can be done. */
export function SubscriptionCard({ subscription, onChange }: Props) {
  const own = useTexts(subscriptionTexts);
  const { locale } = useLocale();
  const mayChange = useMay('manage_subscriptions');
  const { status, plan, product, ends_at, trial_ends_at, period } = subscription;
  const date = (at: string) => formatDate(at, locale);
  const over = status === 'Expired';
  return (
    <Card component="section" aria-label={`${product.name} ${plan.name}`}>
      <Stack gap="md">
        <Group justify="space-between" align="flex-start">
          <div>
            <Title order={2} size="h4">
              {product.name}: {plan.name}
            </Title>
            <Fee subscription={subscription} />
          </div>
          <Group gap={8}>
            {subscription.contract && <StateBadge tone="note" label={own.contract} />}
            <SubscriptionStatus status={status} />
          </Group>
        </Group>
        <Text size="sm" c="dimmed">
          {status === 'Trial' && trial_ends_at && own.trial(date(trial_ends_at))}
          {status === 'Paused' && own.pausedHint}
          {over && ends_at && own.ended(date(ends_at))}
          {!over && ends_at && own.ends(date(ends_at))}
          {!ends_at &&
            status === 'Active' &&
            own.period(formatPeriod(period.starts_at, period.ends_at, locale))}
        </Text>
        <Waiting subscription={subscription} />
        {mayChange && !over && (
          <>
            {(status === 'Active' || status === 'Trial') && (
              <>
                <PlanChanges subscription={subscription} onChange={onChange} />
                <AddOns subscription={subscription} onChange={onChange} />
              </>
            )}
            <Actions subscription={subscription} onChange={onChange} />
          </>
        )}
      </Stack>
    </Card>
  );
}

function Fee({ subscription }: { subscription: Subscription }) {
  const own = useTexts(subscriptionTexts);
  const intervals: Record<string, string> = useTexts(intervalTexts);
  const { locale } = useLocale();
  const price = subscription.price;
  if (!price) return null;
  const every = own.every(price.interval_count, intervals[price.interval] ?? price.interval);
  return <Text>{own.fee(formatMoney(price.base_fee, locale), every)}</Text>;
}

function Actions({ subscription, onChange }: Props) {
  const own = useTexts(subscriptionTexts);
  const { status } = subscription;
  return (
    <Group gap="sm">
      {status === 'Active' && (
        <Button variant="default" onClick={() => onChange({ change: 'pause' } as Change)}>
          {own.pause}
        </Button>
      )}
      {status === 'Paused' && (
        <Button onClick={() => onChange({ change: 'resume' } as Change)}>{own.resume}</Button>
      )}
      {status === 'Cancelled' ? (
        <Button onClick={() => onChange({ change: 'reactivate' } as Change)}>
          {own.reactivate}
        </Button>
      ) : (
        <Button variant="default" onClick={() => onChange({ change: 'cancel' } as Change)}>
          {own.cancel}
        </Button>
      )}
    </Group>
  );
}
