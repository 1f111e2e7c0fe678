// SPDX-License-Identifier: Apache-2.0
import { Group, List, Radio, Stack, Text, ThemeIcon } from '@mantine/core';
import type { Schemas } from '@/api/client';
import { formatMoney, formatNumber, formatUnitPrice } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { CheckIcon } from '@/ui/icons';
import { meterName } from '@/ui/meters';
import classes from './catalog.module.css';
import { intervalTexts, planTexts } from './texts';

type Plan = Schemas['OfferedPlan'];
type Props = { plan: Plan; price: Plan['prices'][number] };

/** One plan as a choice: its price, what is in it, what more of it costs. */
export function PlanCard({ plan, price }: Props) {
  const intervals = useTexts(intervalTexts);
  const { locale } = useLocale();
  const interval = intervals[plan.interval];
  const every = plan.interval_count === 1 ? interval : `${plan.interval_count} × ${interval}`;
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
            {formatMoney(price.base_fee, locale)}
          </Text>
          <Text component="span" c="dimmed">
            {' '}
            / {every}
          </Text>
        </div>
        <Included plan={plan} price={price} />
      </Stack>
    </Radio.Card>
  );
}

function Included({ plan, price }: Props) {
  const own = useTexts(planTexts);
  const intervals = useTexts(intervalTexts);
  const { locale } = useLocale();
  const tick = (
    <ThemeIcon size={20} radius="xl" variant="light">
      <CheckIcon size={13} />
    </ThemeIcon>
  );
  return (
    <List icon={tick} spacing={8} size="sm" center={false}>
      {price.charges.map((charge) => {
        const meter = meterName(charge.meter, locale);
        const each =
          charge.model === 'unit' &&
          formatUnitPrice(charge.unit_price, price.base_fee.currency, locale);
        if (Number(charge.included) === 0) {
          const name = charge.description?.[locale] ?? meter;
          const text = each ? own.each(name, each) : name;
          return <List.Item key={charge.meter}>{text}</List.Item>;
        }
        return (
          <List.Item key={charge.meter}>
            {own.included(formatNumber(charge.included, locale), meter)}
            {each && (
              <Text size="xs" c="dimmed">
                {own.beyond(each)}
              </Text>
            )}
          </List.Item>
        );
      })}
      {plan.rate_limit && (
        <List.Item>
          {own.rate(
            formatNumber(plan.rate_limit.amount, locale),
            intervals[plan.rate_limit.period],
          )}
        </List.Item>
      )}
    </List>
  );
}
