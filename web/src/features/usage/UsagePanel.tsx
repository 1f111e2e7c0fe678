// SPDX-License-Identifier: Apache-2.0
import { Button, Card, SimpleGrid, Skeleton, Stack, Text } from '@mantine/core';
import { Link } from '@tanstack/react-router';
import { useMay } from '@/api/session';
import { EmptyState } from '@/ui/EmptyState';
import { useTexts } from '@/ui/i18n';
import { PulseIcon } from '@/ui/icons';
import { PageHead } from '@/ui/PageHead';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { CallsChart } from './CallsChart';
import { CostsCards } from './CostsCard';
import { CountsTable, EndpointsTable } from './EndpointsTable';
import { QuotasCard } from './QuotasCard';
import { RangeControls } from './RangeControls';
import { usageTexts } from './texts';
import { UsageFigures } from './UsageFigures';
import { type UsageSearch, useByKey, useEndpoints, useKeyNames, useSummary } from './usage';

type Props = { search: UsageSearch; onSearch: (search: UsageSearch) => void };

/** What was called, how it went, what it comes to. */
export function UsagePanel({ search, onSearch }: Props) {
  const own = useTexts(usageTexts);
  const summary = useSummary(search);
  const endpoints = useEndpoints(search);
  const { data } = summary;
  const refused = Object.values(data?.refused ?? {}).reduce((sum, calls) => sum + calls, 0);
  return (
    <Stack gap="lg">
      <PageHead
        title={own.title}
        hint={own.hint}
        action={<RangeControls search={search} onSearch={onSearch} />}
      />
      <ProblemAlert error={summary.error} retry={() => summary.refetch()} />
      {summary.isPending && <FiguresLoading />}
      {data && data.total.calls + refused === 0 && <NoCalls />}
      {data && data.total.calls + refused > 0 && (
        <>
          <UsageFigures total={data.total} refused={refused} />
          <CallsChart days={data.days} from={data.period.starts_at} to={data.period.ends_at} />
        </>
      )}
      <ProblemAlert error={endpoints.error} retry={() => endpoints.refetch()} />
      {endpoints.data && endpoints.data.data.length > 0 && (
        <EndpointsTable endpoints={endpoints.data.data} />
      )}
      <KeysTable search={search} />
      <CostsCards />
      <QuotasCard />
    </Stack>
  );
}

/** The same by key, with the names for who may see them. */
function KeysTable({ search }: { search: UsageSearch }) {
  const own = useTexts(usageTexts);
  const used = useByKey(search).data?.data ?? [];
  const names = useKeyNames(useMay('manage_api_keys')).data?.data ?? [];
  if (used.length === 0) return null;
  const nameOf = (id: string | null) =>
    names.find((key) => key.id === id)?.name ?? own.unknownKey((id ?? '').slice(-8));
  return (
    <CountsTable
      title={own.keys}
      first={own.key}
      rows={used.map((one) => ({
        key: one.key_id ?? '',
        name: (
          <Text size="sm" fw={600}>
            {nameOf(one.key_id)}
          </Text>
        ),
        counts: one,
      }))}
    />
  );
}

/** The numbers of a range, in about the space they will take. */
export function FiguresLoading() {
  return (
    <SimpleGrid cols={{ base: 2, md: 3, lg: 5 }} spacing="sm" role="status">
      {['calls', 'units', 'errors', 'time', 'data'].map((name) => (
        <Skeleton key={name} height={104} radius="lg" />
      ))}
    </SimpleGrid>
  );
}

function NoCalls() {
  const own = useTexts(usageTexts);
  const mayKeys = useMay('manage_api_keys');
  return (
    <Card padding={0}>
      <EmptyState
        icon={<PulseIcon size={28} />}
        title={own.none}
        hint={own.noneHint}
        action={
          mayKeys && (
            <Button component={Link} to="/keys" variant="light">
              {own.makeKey}
            </Button>
          )
        }
      />
    </Card>
  );
}
