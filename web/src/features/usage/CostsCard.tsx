// SPDX-License-Identifier: Apache-2.0
import { Card, Group, Stack, Table, Text, Title } from '@mantine/core';
import { BarChart } from '@/ui/BarChart';
import { EmptyState } from '@/ui/EmptyState';
import { formatDate, formatMoney, formatNumber, formatPeriod, formatUnitPrice } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { InvoiceIcon } from '@/ui/icons';
import { RowsLoading } from '@/ui/Loading';
import { meterTitle } from '@/ui/meters';
import { ProblemAlert } from '@/ui/ProblemAlert';
import page from '@/ui/page.module.css';
import { RowsTable } from '@/ui/RowsTable';
import { costTexts } from './texts';
import { type Costs, useCosts } from './usage';

const SHOWN = 10;

/** What each subscription's running period costs so far, by the law of the bill. */
export function CostsCards() {
  const own = useTexts(costTexts);
  const { data, error, isPending, refetch } = useCosts();
  if (error) return <ProblemAlert error={error} retry={() => refetch()} />;
  if (isPending) {
    return (
      <Card padding={0}>
        <RowsLoading />
      </Card>
    );
  }
  if (data.data.length === 0) {
    return (
      <Card padding={0}>
        <EmptyState icon={<InvoiceIcon size={28} />} title={own.none} hint={own.noneHint} />
      </Card>
    );
  }
  return data.data.map((costs) => <CostsCard key={costs.subscription_id} costs={costs} />);
}

function CostsCard({ costs }: { costs: Costs }) {
  const own = useTexts(costTexts);
  const { locale } = useLocale();
  const money = (amount: string) => formatUnitPrice(amount, costs.currency, locale);
  const { product, plan, period } = costs;
  const running = formatPeriod(period.starts_at, period.ends_at, locale);
  const bars = costs.days.map((one) => ({
    key: one.day,
    label: formatDate(one.day, locale),
    value: Number(one.total),
    text: own.day(formatDate(one.day, locale), money(one.amount), money(one.total)),
  }));
  return (
    <Card component="section" aria-label={`${own.title}: ${product.name}`}>
      <Stack gap="md">
        <Group justify="space-between" align="flex-start">
          <div>
            <Title order={2} size="h4">
              {own.title}
            </Title>
            <Text size="sm" c="dimmed">
              {own.until(product.name, plan.name, running)}
            </Text>
          </div>
          <p className={page.number}>{formatMoney(costs.billed, locale)}</p>
        </Group>
        {costs.amount === '0' && <Text size="sm">{own.free}</Text>}
        {costs.amount !== '0' && bars.length > 1 && (
          <BarChart label={own.running} bars={bars} top={own.together(money(costs.amount))} />
        )}
        <MetersTable costs={costs} money={money} />
        {costs.amount !== '0' && <EndpointShares costs={costs} money={money} />}
      </Stack>
    </Card>
  );
}

type TableProps = { costs: Costs; money: (amount: string) => string };

function MetersTable({ costs, money }: TableProps) {
  const own = useTexts(costTexts);
  const { locale } = useLocale();
  const number = (value: string | null) => (value === null ? '–' : formatNumber(value, locale));
  const columns = [own.used, own.included, own.over, own.next, own.amount];
  return (
    <RowsTable
      label={own.title}
      columns={[{ label: own.meter }, ...columns.map((label) => ({ label, numeric: true }))]}
    >
      {costs.meters.map((meter) => (
        <Table.Tr key={meter.meter}>
          <Table.Td data-label={own.meter}>{meterTitle(meter.meter, locale)}</Table.Td>
          <Table.Td ta="right" data-label={own.used}>
            {number(meter.quantity)}
          </Table.Td>
          <Table.Td ta="right" data-label={own.included}>
            {number(meter.included)}
          </Table.Td>
          <Table.Td ta="right" data-label={own.over}>
            {number(meter.over)}
          </Table.Td>
          <Table.Td ta="right" data-label={own.next}>
            {meter.next_unit_price === null ? '–' : money(meter.next_unit_price)}
          </Table.Td>
          <Table.Td ta="right" fw={600} data-label={own.amount}>
            {money(meter.amount)}
          </Table.Td>
        </Table.Tr>
      ))}
    </RowsTable>
  );
}

function EndpointShares({ costs, money }: TableProps) {
  const own = useTexts(costTexts);
  return (
    <RowsTable
      label={own.endpoints}
      columns={[{ label: own.endpoint }, { label: own.amount, numeric: true }]}
    >
      {costs.endpoints.slice(0, SHOWN).map((one) => (
        <Table.Tr key={one.route_id}>
          <Table.Td data-label={own.endpoint}>
            <span className={page.path}>
              {one.path ? `${one.method} ${one.path}` : own.removed}
            </span>
          </Table.Td>
          <Table.Td ta="right" fw={600} data-label={own.amount}>
            {money(one.amount)}
          </Table.Td>
        </Table.Tr>
      ))}
    </RowsTable>
  );
}
