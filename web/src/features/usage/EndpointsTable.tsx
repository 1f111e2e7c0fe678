// SPDX-License-Identifier: Apache-2.0
import { Badge, Card, Group, Table, Text, Title } from '@mantine/core';
import type { ReactNode } from 'react';
import type { Schemas } from '@/api/client';
import { formatDuration } from '@/ui/duration';
import { formatNumber } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import page from '@/ui/page.module.css';
import { RowsTable } from '@/ui/RowsTable';
import { usageTexts } from './texts';
import type { Counts } from './usage';

type Endpoint = Schemas['EndpointShape'];

/** What was called, the most called first, with answer times. */
export function EndpointsTable({ endpoints }: { endpoints: Endpoint[] }) {
  const own = useTexts(usageTexts);
  return (
    <CountsTable
      title={own.endpoints}
      first={own.endpoint}
      rows={endpoints.map((one) => ({
        key: one.route_id,
        counts: one,
        name: one.path ? (
          <Group gap="xs" wrap="nowrap">
            <Badge variant="light" color="sky" tt="none" miw="max-content">
              {one.method}
            </Badge>
            <span className={page.path}>{one.path}</span>
          </Group>
        ) : (
          <Text size="sm" c="dimmed">
            {own.removed}
          </Text>
        ),
      }))}
    />
  );
}

type Row = { key: string; name: ReactNode; counts: Counts };

/** Groups of calls: how many, how many of them failed, how long they took. */
export function CountsTable(props: { title: string; first: string; rows: Row[] }) {
  const own = useTexts(usageTexts);
  const { locale } = useLocale();
  const { title, first, rows } = props;
  const columns = [own.calls, own.units, own.errors, own.p50, own.p95, own.p99];
  const time = (value: number | undefined) =>
    value === undefined ? '–' : formatDuration(value, locale);
  return (
    <Card padding={0} component="section" aria-label={title}>
      <Title order={2} size="h4" p="lg" pb="xs">
        {title}
      </Title>
      <RowsTable
        label={title}
        columns={[{ label: first }, ...columns.map((label) => ({ label, numeric: true }))]}
      >
        {rows.map(({ key, name, counts }) => (
          <Table.Tr key={key}>
            <Table.Td data-label={first}>{name}</Table.Td>
            <Table.Td ta="right" data-label={own.calls}>
              {formatNumber(counts.calls, locale)}
            </Table.Td>
            <Table.Td ta="right" data-label={own.units}>
              {formatNumber(counts.units, locale)}
            </Table.Td>
            <Table.Td ta="right" data-label={own.errors}>
              {formatNumber(counts.errors, locale)}
            </Table.Td>
            <Table.Td ta="right" data-label={own.p50}>
              {time(counts.duration_ms?.p50)}
            </Table.Td>
            <Table.Td ta="right" data-label={own.p95}>
              {time(counts.duration_ms?.p95)}
            </Table.Td>
            <Table.Td ta="right" data-label={own.p99}>
              {time(counts.duration_ms?.p99)}
            </Table.Td>
          </Table.Tr>
        ))}
      </RowsTable>
    </Card>
  );
}
