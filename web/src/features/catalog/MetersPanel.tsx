// SPDX-License-Identifier: Apache-2.0
import { Button, Card, Group, Stack, Table, Text, Title, VisuallyHidden } from '@mantine/core';
import { useState } from 'react';
import { EmptyState } from '@/ui/EmptyState';
import { useLocale, useTexts } from '@/ui/i18n';
import { GaugeIcon } from '@/ui/icons';
import { RowsLoading } from '@/ui/Loading';
import { meterName, meterTitle } from '@/ui/meters';
import { ProblemAlert } from '@/ui/ProblemAlert';
import page from '@/ui/page.module.css';
import { RowsTable } from '@/ui/RowsTable';
import { MeterDialog } from './MeterDialog';
import { kindTexts, meterTexts } from './meterTexts';
import { type Meter, type Product, useMeters } from './ownProducts';
import { ProductPanel } from './ProductPanel';

/** What the organization's products count, and how to count more. */
export function MetersPanel() {
  const own = useTexts(meterTexts);
  return (
    <ProductPanel title={own.title} hint={own.hint}>
      {(product) => <Meters key={product.id} product={product} />}
    </ProductPanel>
  );
}

// Null is a meter that is yet to be made.
type Opened = { meter: Meter | null };

function Meters({ product }: { product: Product }) {
  const own = useTexts(meterTexts);
  const meters = useMeters(product.id);
  const [opened, open] = useState<Opened | null>(null);
  const [said, setSaid] = useState('');
  const rows = meters.data?.data ?? [];
  return (
    <Stack gap="md">
      <Group justify="space-between">
        <Title order={2} size="h4">
          {product.name}
        </Title>
        <Button onClick={() => open({ meter: null })}>{own.create}</Button>
      </Group>
      <VisuallyHidden aria-live="polite">{said}</VisuallyHidden>
      <ProblemAlert error={meters.error} retry={() => meters.refetch()} />
      <Card padding={0}>
        {meters.isPending && <RowsLoading />}
        {meters.isSuccess && rows.length === 0 && (
          <EmptyState icon={<GaugeIcon size={28} />} title={own.none} hint={own.noneHint} />
        )}
        {rows.length > 0 && <MetersTable meters={rows} onChange={(meter) => open({ meter })} />}
      </Card>
      {opened && (
        <MeterDialog
          product={product}
          meter={opened.meter}
          onClose={() => open(null)}
          onSaved={(key) => setSaid(own.saved(key))}
        />
      )}
    </Stack>
  );
}

type TableProps = { meters: Meter[]; onChange: (meter: Meter) => void };

function MetersTable({ meters, onChange }: TableProps) {
  const own = useTexts(meterTexts);
  const kinds: Record<string, string> = useTexts(kindTexts);
  const { locale } = useLocale();
  return (
    <RowsTable
      label={own.title}
      columns={[
        { label: own.meter },
        { label: own.kind },
        { label: own.counts },
        { label: own.source },
      ]}
      actions={own.actions}
    >
      {meters.map((meter) => (
        <Table.Tr key={meter.key}>
          <Table.Td data-label={own.meter}>
            <div>
              <Text fw={600} size="sm">
                {meterTitle(meter.key, locale)}
              </Text>
              <Text size="xs" c="dimmed">
                {own.per(meter.unit)} ·{' '}
                <Text component="span" ff="monospace" inherit>
                  {meter.key}
                </Text>
              </Text>
            </div>
          </Table.Td>
          <Table.Td data-label={own.kind}>
            {kinds[meter.aggregation] ?? meter.aggregation}
            {meter.property && ` (${meter.property})`}
          </Table.Td>
          <Table.Td data-label={own.counts}>
            <Filters filters={meter.filters} />
          </Table.Td>
          <Table.Td data-label={own.source}>
            {meter.source_path ? (
              <span className={page.path}>{meter.source_path}</span>
            ) : (
              own.plainSource
            )}
          </Table.Td>
          <Table.Td ta="right">
            <Button
              size="compact-sm"
              variant="light"
              aria-label={own.changeOf(meterName(meter.key, locale))}
              onClick={() => onChange(meter)}
            >
              {own.change}
            </Button>
          </Table.Td>
        </Table.Tr>
      ))}
    </RowsTable>
  );
}

function Filters({ filters }: { filters: Meter['filters'] }) {
  const own = useTexts(meterTexts);
  const { locale } = useLocale();
  const either = new Intl.ListFormat(locale, { type: 'disjunction' });
  const given = Object.entries(filters);
  if (given.length === 0) return own.everything;
  return (
    <div>
      {given.map(([property, values]) => (
        <Text key={property} size="sm">
          {own.where(property, either.format(values))}
        </Text>
      ))}
    </div>
  );
}
