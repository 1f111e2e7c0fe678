// SPDX-License-Identifier: Apache-2.0
import { Box, Group, Progress, Text } from '@mantine/core';
import type { ReactNode } from 'react';
import { formatDate, formatNumber } from './format';
import { useLocale, useTexts } from './i18n';
import { meterName, meterTitle, periodTexts, type QuotaPeriod } from './meters';
import classes from './quota.module.css';
import { quotaTexts } from './quotaTexts';

const NEARLY = 80;

/** A quota as the API shows it; quantities are decimal strings. */
export type Quota = {
  product: { name: string };
  meter: string;
  period: string;
  used: string;
  limit: string | null;
  remaining: string | null;
  behavior: string;
  overage_cap: string | null;
  rolled_over: string;
  increase: string;
  increase_ends_at: string | null;
  used_before: string;
  resets_at: string;
  thresholds: { percent: number; reached: boolean }[];
};

type Props = { quota: Quota; actions?: ReactNode };

/**
 * One quota: how much is used, where people are told, what happens over it. With `actions` it is
 * somebody else's, and those are what can be done about it.
 */
export function QuotaBar({ quota, actions }: Props) {
  const own = useTexts(quotaTexts);
  const periods = useTexts(periodTexts);
  const { locale } = useLocale();
  const number = (value: string) => formatNumber(value, locale);
  const often = periods[quota.period as QuotaPeriod];
  const name = actions
    ? `${meterTitle(quota.meter, locale)} ${often}`
    : `${quota.product.name}: ${meterName(quota.meter, locale)} ${often}`;
  const share = quota.limit ? (Number(quota.used) / Math.max(1, Number(quota.limit))) * 100 : 0;
  const reached = quota.thresholds.filter((one) => one.reached).map((one) => `${one.percent} %`);
  return (
    <div>
      <Group justify="space-between" gap="xs" mb={4}>
        <Text size="sm" fw={600}>
          {name}
        </Text>
        <Text size="sm" c="dimmed">
          {quota.limit && quota.remaining !== null
            ? own.left(number(quota.remaining), number(quota.limit))
            : own.noLimit(number(quota.used))}
          {', '}
          {own.resets(formatDate(quota.resets_at, locale))}
        </Text>
      </Group>
      {quota.limit && (
        <Box className={classes.bar}>
          <Progress
            value={Math.min(100, share)}
            color={share >= 100 ? 'red' : share >= NEARLY ? 'yellow' : 'sky'}
            size="lg"
            radius="sm"
            aria-label={`${name}: ${own.used(number(quota.used), number(quota.limit))}`}
          />
          {quota.thresholds.map((one) => (
            <span key={one.percent} className={classes.mark} data-percent={one.percent} />
          ))}
        </Box>
      )}
      {quota.limit && (
        <Text size="xs" c="dimmed" mt={4}>
          {over(quota, own, number)}{' '}
          {quota.behavior !== 'allow' &&
            !actions &&
            own.thresholds(quota.thresholds.map((one) => `${one.percent} %`).join(', '))}{' '}
          {reached.length > 0 && own.reached(reached.join(', '))}{' '}
          {quota.rolled_over !== '0' && own.rolled(number(quota.rolled_over))}{' '}
          {quota.increase_ends_at &&
            own.increased(number(quota.increase), formatDate(quota.increase_ends_at, locale))}{' '}
          {quota.used_before !== '0' && own.before(number(quota.used_before))}
        </Text>
      )}
      {actions}
    </div>
  );
}

function over(quota: Quota, own: typeof quotaTexts.en, number: (value: string) => string) {
  if (quota.overage_cap !== null) return own.capped(number(quota.overage_cap));
  if (quota.behavior === 'deny') return own.deny;
  if (quota.behavior === 'warn') return own.warn;
  return quota.behavior === 'overage' ? own.overage : own.allow;
}
