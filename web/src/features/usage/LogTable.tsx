// SPDX-License-Identifier: Apache-2.0
import { Badge, Button, Group, Table, Text } from '@mantine/core';
import { formatDuration } from '@/ui/duration';
import { formatNumber, formatSecond } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import page from '@/ui/page.module.css';
import { RowsTable } from '@/ui/RowsTable';
import { StateBadge, type Tone } from '@/ui/StateBadge';
import { logTexts } from './logTexts';
import type { Call } from './usage';

type Props = { calls: Call[]; onShow: (call: Call) => void };

/** One row per call. */
export function LogTable({ calls, onShow }: Props) {
  const own = useTexts(logTexts);
  const numeric = true;
  return (
    <RowsTable
      label={own.title}
      columns={[
        { label: own.at },
        { label: own.call },
        { label: own.result },
        { label: own.units, numeric },
        { label: own.took, numeric },
      ]}
      actions={own.actions}
    >
      {calls.map((call) => (
        <LogRow key={call.id} call={call} onShow={onShow} />
      ))}
    </RowsTable>
  );
}

function LogRow({ call, onShow }: { call: Call; onShow: (call: Call) => void }) {
  const own = useTexts(logTexts);
  const { locale } = useLocale();
  const name = useCallName()(call);
  return (
    <Table.Tr>
      <Table.Td data-label={own.at}>
        <Text size="sm">{formatSecond(call.at, locale)}</Text>
      </Table.Td>
      <Table.Td data-label={own.call}>
        <Group gap="xs">
          <span className={page.path}>{name}</span>
          {call.environment === 'Test' && (
            <Badge variant="outline" color="gray" tt="none">
              {own.testBadge}
            </Badge>
          )}
        </Group>
      </Table.Td>
      <Table.Td data-label={own.result}>
        <CallResult call={call} />
      </Table.Td>
      <Table.Td ta="right" data-label={own.units}>
        {formatNumber(call.units, locale)}
      </Table.Td>
      <Table.Td ta="right" data-label={own.took}>
        {call.source ? '–' : formatDuration(call.duration_ms, locale)}
      </Table.Td>
      <Table.Td ta="right">
        <Button
          size="compact-sm"
          variant="subtle"
          aria-label={own.detailsOf(name)}
          onClick={() => onShow(call)}
        >
          {own.details}
        </Button>
      </Table.Td>
    </Table.Tr>
  );
}

/** What a call is called: method and path, or where it came from. */
export function useCallName() {
  const own = useTexts(logTexts);
  return (call: Call) => (call.source ? own.outside : `${call.method} ${call.path ?? own.removed}`);
}

/** The status, and the refusal in its own word. */
export function CallResult({ call }: { call: Call }) {
  if (call.source) return null;
  const tone: Tone = call.status >= 500 ? 'bad' : call.status >= 400 ? 'warn' : 'good';
  const label = call.code ? `${call.status} ${call.code}` : String(call.status);
  return <StateBadge tone={tone} label={label} />;
}
