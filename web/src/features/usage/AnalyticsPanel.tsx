// SPDX-License-Identifier: Apache-2.0
import { Card, Stack, Text } from '@mantine/core';
import { EmptyState } from '@/ui/EmptyState';
import { Figure } from '@/ui/Figure';
import { formatNumber } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { ChartIcon } from '@/ui/icons';
import { PageHead } from '@/ui/PageHead';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { CallsChart } from './CallsChart';
import { CountsTable, EndpointsTable } from './EndpointsTable';
import { RangeControls } from './RangeControls';
import { analyticsTexts } from './texts';
import { UsageFigures } from './UsageFigures';
import { FiguresLoading } from './UsagePanel';
import { type UsageSearch, useAnalytics } from './usage';

type Props = { search: UsageSearch; onSearch: (search: UsageSearch) => void };

/** How a provider's products are used. */
export function AnalyticsPanel({ search, onSearch }: Props) {
  const own = useTexts(analyticsTexts);
  const { locale } = useLocale();
  const { data, error, isPending, refetch } = useAnalytics(search);
  const name = (text: string | null) => (
    <Text size="sm" fw={600}>
      {text ?? own.unnamed}
    </Text>
  );
  return (
    <Stack gap="lg">
      <PageHead
        title={own.title}
        hint={own.hint}
        action={<RangeControls search={search} onSearch={onSearch} />}
      />
      <ProblemAlert error={error} retry={() => refetch()} />
      {isPending && <FiguresLoading />}
      {data?.total.calls === 0 && (
        <Card padding={0}>
          <EmptyState icon={<ChartIcon size={28} />} title={own.none} hint={own.noneHint} />
        </Card>
      )}
      {data && data.total.calls > 0 && (
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
          <CountsTable
            title={own.top}
            first={own.consumer}
            rows={data.top_consumers.map((one) => ({
              key: one.organization_id,
              name: name(one.name),
              counts: one,
            }))}
          />
          <EndpointsTable endpoints={data.endpoints} />
          <CountsTable
            title={own.products}
            first={own.product}
            rows={data.products.map((one) => ({
              key: one.product_id,
              name: name(one.name),
              counts: one,
            }))}
          />
        </>
      )}
    </Stack>
  );
}
