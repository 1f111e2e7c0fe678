// SPDX-License-Identifier: Apache-2.0
import { Figure } from '@/ui/Figure';
import { formatNumber } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { CallsChart } from './CallsChart';
import { QuotasCard } from './QuotasCard';
import { analyticsTexts } from './texts';
import { UsageFigures } from './UsageFigures';
import { useAnalytics, useSummary } from './usage';

const MONTH = { days: 30, environment: 'Live' } as const;

/** The last thirty days of one's own calls, and what is left of the quotas. */
export function CallsOverview() {
  const { data } = useSummary(MONTH);
  return (
    <>
      {data && data.total.calls > 0 && (
        <CallsChart days={data.days} from={data.period.starts_at} to={data.period.ends_at} />
      )}
      <QuotasCard />
    </>
  );
}

/** The last thirty days of what others called of one's products. */
export function SalesOverview() {
  const own = useTexts(analyticsTexts);
  const { locale } = useLocale();
  const { data } = useAnalytics(MONTH);
  if (!data || data.total.calls === 0) return null;
  return (
    <>
      <UsageFigures total={data.total}>
        <Figure label={own.consumers} value={formatNumber(data.consumers, locale)}>
          {own.consumersHint}
        </Figure>
      </UsageFigures>
      <CallsChart
        days={data.slices.map((slice) => ({ ...slice, day: slice.at }))}
        from={data.period.starts_at}
        to={data.period.ends_at}
      />
    </>
  );
}
