// SPDX-License-Identifier: Apache-2.0
import { SimpleGrid } from '@mantine/core';
import type { ReactNode } from 'react';
import { formatBytes, formatDuration } from '@/ui/duration';
import { Figure } from '@/ui/Figure';
import { formatNumber } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { usageTexts } from './texts';
import type { Counts } from './usage';

type Props = { total: Counts; refused?: number; children?: ReactNode };

/** The numbers of a range: calls, units, errors, answer times, data. */
export function UsageFigures({ total, refused = 0, children }: Props) {
  const own = useTexts(usageTexts);
  const { locale } = useLocale();
  const share = new Intl.NumberFormat(locale === 'nl' ? 'nl-NL' : 'en-GB', {
    style: 'percent',
    maximumFractionDigits: 1,
  });
  const times = total.duration_ms;
  return (
    <SimpleGrid cols={{ base: 2, md: 3, lg: 5 }} spacing="sm">
      <Figure label={own.calls} value={formatNumber(total.calls, locale)}>
        {refused > 0 && own.refused(formatNumber(refused, locale))}
      </Figure>
      {children ?? (
        <Figure label={own.units} value={formatNumber(total.units, locale)}>
          {own.unitsHint}
        </Figure>
      )}
      <Figure label={own.errors} value={formatNumber(total.errors, locale)}>
        {total.calls > 0 && own.errorShare(share.format(total.errors / total.calls))}
      </Figure>
      <Figure label={own.time} value={times ? formatDuration(times.p50, locale) : '–'}>
        {times
          ? own.slowest(formatDuration(times.p95, locale), formatDuration(times.p99, locale))
          : own.timeHint}
      </Figure>
      <Figure label={own.volume} value={formatBytes(total.bytes_out, locale)}>
        {own.received(formatBytes(total.bytes_in, locale))}
      </Figure>
    </SimpleGrid>
  );
}
