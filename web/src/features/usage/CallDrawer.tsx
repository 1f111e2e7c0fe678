// SPDX-License-Identifier: Apache-2.0
import { Card, Drawer, Group, Stack, Text, Title } from '@mantine/core';
import type { ReactNode } from 'react';
import type { Schemas } from '@/api/client';
import { CopyField } from '@/ui/CopyField';
import { formatBytes, formatDuration } from '@/ui/duration';
import { formatNumber, formatSecond, formatUnitPrice } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { RowsLoading } from '@/ui/Loading';
import { meterName } from '@/ui/meters';
import { ProblemAlert } from '@/ui/ProblemAlert';
import page from '@/ui/page.module.css';
import { wordTexts } from '@/ui/words';
import { CallResult, useCallName } from './LogTable';
import { callTexts, logTexts } from './logTexts';
import { type Call, useCall } from './usage';

type Props = { call: Call | null; opened: boolean; onClose: () => void };

/** One call: what it cost and why, and everything that is known of it. */
export function CallDrawer({ call, opened, onClose }: Props) {
  const words = useTexts(wordTexts);
  const detail = useCall(call);
  const name = useCallName();
  return (
    <Drawer
      opened={opened}
      onClose={onClose}
      position="right"
      size="md"
      title={call && <span className={page.path}>{name(call)}</span>}
      closeButtonProps={{ 'aria-label': words.close }}
      attributes={{ header: { role: 'presentation' } }}
    >
      <Stack gap="lg">
        <ProblemAlert error={detail.error} retry={() => detail.refetch()} />
        {detail.isLoading && <RowsLoading rows={5} />}
        {detail.data && <Price price={detail.data.price} />}
        {detail.data && <Facts call={detail.data} />}
      </Stack>
    </Drawer>
  );
}

function Price({ price }: { price: Schemas['CallPriceShape'] }) {
  const own = useTexts(callTexts);
  const { locale } = useLocale();
  const { currency } = price;
  const money = (amount: string) => formatUnitPrice(amount, currency ?? 'EUR', locale);
  const name = (key: string) => meterName(key, locale);
  const used = price.meters.filter((meter) => meter.quantity !== '0');
  return (
    <Card component="section" aria-label={own.cost}>
      <Title order={2} size="h5">
        {own.cost}
      </Title>
      {currency && <p className={page.number}>{money(price.amount)}</p>}
      <Text size="sm" c="dimmed">
        {own[price.reason]}
      </Text>
      {used.map((meter) => (
        <Group key={meter.meter} justify="space-between" mt="xs">
          <Text size="sm">
            {meter.unit_price && meter.amount !== '0'
              ? own.each(
                  formatNumber(meter.quantity, locale),
                  name(meter.meter),
                  money(meter.unit_price),
                )
              : own.plain(formatNumber(meter.quantity, locale), name(meter.meter))}
          </Text>
          <Text size="sm" fw={600}>
            {money(meter.amount)}
          </Text>
        </Group>
      ))}
    </Card>
  );
}

function Facts({ call }: { call: Call }) {
  const own = useTexts(callTexts);
  const log = useTexts(logTexts);
  const { locale } = useLocale();
  const bytes = (value: number) => formatBytes(value, locale);
  return (
    <section aria-label={own.call}>
      <Stack gap="xs">
        <Fact name={log.at}>{formatSecond(call.at, locale)}</Fact>
        {!call.source && (
          <>
            <Fact name={log.result}>
              <CallResult call={call} />
            </Fact>
            <Fact name={log.took}>{formatDuration(call.duration_ms, locale)}</Fact>
            {call.upstream_ms !== null && (
              <Fact name={own.upstream}>{formatDuration(call.upstream_ms, locale)}</Fact>
            )}
            <Fact name={own.size}>{own.sizes(bytes(call.bytes_in), bytes(call.bytes_out))}</Fact>
            <Fact name={own.address}>{call.ip}</Fact>
          </>
        )}
        <Fact name={log.environment}>{call.environment}</Fact>
        {call.continued && <Text size="sm">{own.part}</Text>}
        <CopyField label={log.requestId} value={call.request_id} />
      </Stack>
    </section>
  );
}

function Fact({ name, children }: { name: string; children: ReactNode }) {
  return (
    <Group justify="space-between" gap="md">
      <Text size="sm" c="dimmed">
        {name}
      </Text>
      <Text size="sm" component="div">
        {children}
      </Text>
    </Group>
  );
}
