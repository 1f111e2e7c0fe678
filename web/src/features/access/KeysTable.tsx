// SPDX-License-Identifier: Apache-2.0
import { Badge, Button, Code, Table, Text } from '@mantine/core';
import { formatInstant } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { RowsTable } from '@/ui/RowsTable';
import { StateBadge } from '@/ui/StateBadge';
import type { ApiKey } from './keys';
import { keyStatusTexts, keyTexts } from './texts';

type Props = { keys: ApiKey[]; onRevoke: (key: ApiKey) => void };

/** One row per key; of the key itself only what is stored: its beginning and its end. */
export function KeysTable({ keys, onRevoke }: Props) {
  const own = useTexts(keyTexts);
  const columns = [own.name, own.environment, own.key, own.status, own.lastUsed];
  return (
    <RowsTable
      label={own.title}
      columns={columns.map((label) => ({ label }))}
      actions={own.actions}
    >
      {keys.map((key) => (
        <KeyRow key={key.id} item={key} onRevoke={onRevoke} />
      ))}
    </RowsTable>
  );
}

function KeyRow({ item, onRevoke }: { item: ApiKey; onRevoke: (key: ApiKey) => void }) {
  const own = useTexts(keyTexts);
  const statuses: Record<string, string> = useTexts(keyStatusTexts);
  const { locale } = useLocale();
  const active = item.status === 'Active';
  return (
    <Table.Tr>
      <Table.Td data-label={own.name}>
        <Text fw={600} size="sm">
          {item.name}
        </Text>
      </Table.Td>
      <Table.Td data-label={own.environment}>
        <Badge variant="outline" color={item.environment === 'Live' ? 'sky' : 'gray'} tt="none">
          {item.environment === 'Live' ? own.live : own.test}
        </Badge>
      </Table.Td>
      <Table.Td data-label={own.key}>
        <Code>
          {item.prefix}…{item.last8}
        </Code>
      </Table.Td>
      <Table.Td data-label={own.status}>
        <StateBadge tone={active ? 'good' : 'quiet'} label={statuses[item.status] ?? item.status} />
      </Table.Td>
      <Table.Td data-label={own.lastUsed}>
        <Text size="sm" c="dimmed">
          {item.last_used_at ? formatInstant(item.last_used_at, locale) : own.never}
        </Text>
      </Table.Td>
      <Table.Td ta="right">
        {active && (
          <Button
            size="compact-sm"
            variant="subtle"
            color="red"
            aria-label={own.revokeName(item.name)}
            onClick={() => onRevoke(item)}
          >
            {own.revoke}
          </Button>
        )}
      </Table.Td>
    </Table.Tr>
  );
}
