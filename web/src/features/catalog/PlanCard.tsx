// SPDX-License-Identifier: Apache-2.0
import { Group, List, Radio, Stack, Text, ThemeIcon } from '@mantine/core';
import type { Schemas } from '@/api/client';
import { formatMoney, formatNumber, formatUnitPrice } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { CheckIcon } from '@/ui/icons';
import classes from './catalog.module.css';
import { intervalTexts, meterTexts, planTexts } from './texts';

type Plan = Schemas['Plan'];

/** One plan as a choice: its price, what is in it, what more of it costs. */
export function PlanCard({ plan }: { plan: Plan }) {
  const own = useTexts(planTexts);
  const intervals: Record<string, string> = useTexts(intervalTexts);
  const { locale } = useLocale();
  return (
    <Radio.Card value={plan.slug} radius="lg" p="lg" className={classes.plan ?? ''}>
      <Stack gap="md" h="100%">
        <Group justify="space-between" wrap="nowrap">
          <Text fw={650} size="lg">
            {plan.name}
          </Text>
          <Radio.Indicator />
        </Group>
        <div>
          <Text component="span" className={classes.price ?? ''}>
            {plan.base_fee ? formatMoney(plan.base_fee, locale) : own.byContract}
          </Text>
          {plan.base_fee && (
            <Text component="span" c="dimmed">
              {' '}
              / {intervals[plan.interval] ?? plan.interval}
            </Text>
          )}
        </div>
        <Included plan={plan} />
      </Stack>
    </Radio.Card>
  );
}

function Included({ plan }: { plan: Plan }) {
  const own = useTexts(planTexts);
  const meters: Record<string, string> = useTexts(meterTexts);
  const intervals: Record<string, string> = useTexts(intervalTexts);
  const { locale } = useLocale();
  const currency = plan.base_fee?.currency ?? 'EUR';
  const tick = (
    <ThemeIcon size={20} radius="xl" variant="light">
      <CheckIcon size={13} />
    </ThemeIcon>
  );
  return (
    <List icon={tick} spacing={8} size="sm" center={false}>
      {plan.charges.map((charge) => {
        const meter = meters[charge.meter] ?? charge.meter;
        const price = formatUnitPrice(charge.unit_price, currency, locale);
        if (Number(charge.included) === 0) {
          return <List.Item key={charge.meter}>{own.each(meter, price)}</List.Item>;
        }
        return (
          <List.Item key={charge.meter}>
            {own.included(formatNumber(charge.included, locale), meter)}
            <Text size="xs" c="dimmed">
              {own.beyond(price)}
            </Text>
          </List.Item>
        );
      })}
      {plan.rate_limit && (
        <List.Item>
          {own.rate(
            formatNumber(plan.rate_limit.amount, locale),
            intervals[plan.rate_limit.period] ?? plan.rate_limit.period,
          )}
        </List.Item>
      )}
    </List>
  );
}
