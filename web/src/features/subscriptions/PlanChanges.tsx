// SPDX-License-Identifier: Apache-2.0
import { Button, Group, Stack, Text } from '@mantine/core';
import { formatMoney } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { type Change, type Subscription, useOffer } from './subscriptions';
import { intervalTexts, subscriptionTexts } from './texts';

type Props = { subscription: Subscription; onChange: (change: Change) => void };

/** The product's plans with the present one marked; those with other periods can't be moved to. */
export function PlanChanges({ subscription, onChange }: Props) {
  const own = useTexts(subscriptionTexts);
  const intervals: Record<string, string> = useTexts(intervalTexts);
  const { locale } = useLocale();
  const offer = useOffer(subscription.product.slug);
  const present = subscription.plan;
  const plans = (offer.data?.plans ?? []).flatMap((plan) => {
    const price = plan.prices.find((one) => one.base_fee.currency === subscription.currency);
    const same =
      plan.interval === subscription.price?.interval &&
      plan.interval_count === subscription.price?.interval_count;
    return price && same ? [{ plan, fee: price.base_fee }] : [];
  });
  if (offer.isError) return <ProblemAlert error={offer.error} retry={() => offer.refetch()} />;
  const others = plans.filter(({ plan }) => plan.slug !== present.slug);
  if (others.length === 0) return null;
  const hidden = plans.length === others.length;
  return (
    <Stack gap="xs">
      <Text fw={600} size="sm">
        {own.plans}
      </Text>
      {hidden && (
        <Group justify="space-between">
          <Text size="sm">{present.name}</Text>
          <Text size="sm" c="dimmed">
            {own.present}
          </Text>
        </Group>
      )}
      {plans.map(({ plan, fee }) => {
        const change = plan.rank > present.rank ? 'upgrade' : 'downgrade';
        const every = own.every(plan.interval_count, intervals[plan.interval] ?? plan.interval);
        return (
          <Group key={plan.slug} justify="space-between">
            <Text size="sm">
              {plan.name}, {own.fee(formatMoney(fee, locale), every)}
            </Text>
            {plan.slug === present.slug ? (
              <Text size="sm" c="dimmed">
                {own.present}
              </Text>
            ) : (
              <Button
                size="compact-sm"
                variant={change === 'upgrade' ? 'light' : 'default'}
                aria-label={own[change](plan.name)}
                onClick={() => onChange({ change, plan: plan.slug } as Change)}
              >
                {own[change](plan.name)}
              </Button>
            )}
          </Group>
        );
      })}
    </Stack>
  );
}
