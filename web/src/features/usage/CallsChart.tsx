// SPDX-License-Identifier: Apache-2.0
import { Card, Title } from '@mantine/core';
import { BarChart } from '@/ui/BarChart';
import { formatDate, formatNumber } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { dayAfter, dayOf, lastDay } from '@/ui/zone';
import { usageTexts } from './texts';
import type { Counts } from './usage';

type Day = Counts & { day: string };
type Props = { days: Day[]; from: string; to: string };

/** Calls per day with their errors; a day without calls is a day too. */
export function CallsChart({ days, from, to }: Props) {
  const own = useTexts(usageTexts);
  const { locale } = useLocale();
  const number = (value: number | string) => formatNumber(value, locale);
  const bars = everyDay(days, from, to).map((key) => {
    const day = days.find((one) => one.day === key);
    const [calls, units, errors] = [day?.calls ?? 0, day?.units ?? '0', day?.errors ?? 0];
    const date = formatDate(key, locale);
    return {
      key,
      label: date,
      value: calls,
      bad: errors,
      text: own.day(date, number(calls), number(units), number(errors)),
    };
  });
  const highest = Math.max(0, ...days.map((day) => day.calls));
  return (
    <Card component="section" aria-label={own.perDay}>
      <Title order={2} size="h4" mb="xs">
        {own.perDay}
      </Title>
      <BarChart
        label={own.perDay}
        bars={bars}
        top={own.highest(number(highest))}
        legend={{ good: own.served, bad: own.errors }}
      />
    </Card>
  );
}

/** The days from one instant to another, and those that have calls, in their order. */
function everyDay(days: Day[], from: string, to: string): string[] {
  const found = new Set(days.map((day) => day.day));
  const last = lastDay(to);
  for (let day = dayOf(from); day <= last; day = dayAfter(day)) found.add(day);
  return [...found].sort();
}
