// SPDX-License-Identifier: Apache-2.0
import { Stack, Table, Text } from '@mantine/core';
import { formatMoney } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import type { Cost } from './subscriptions';
import { changeTexts } from './texts';

type Props = { title: string; hint?: string; cost: Cost | null; empty: string };

/** The lines of an invoice that is not made yet, and what they add up to. */
export function CostTable({ title, hint, cost, empty }: Props) {
  const own = useTexts(changeTexts);
  const { locale } = useLocale();
  if (!cost) {
    return empty ? (
      <Text size="sm" c="dimmed">
        {empty}
      </Text>
    ) : null;
  }
  return (
    <Stack gap={4}>
      <Text size="sm" fw={600}>
        {title}
      </Text>
      <Table aria-label={title} verticalSpacing={6}>
        <Table.Tbody>
          {cost.lines.map((line) => (
            <Table.Tr key={`${line.description} ${line.starts_at} ${line.amount.amount_minor}`}>
              <Table.Td>{line.description}</Table.Td>
              <Table.Td ta="right">{formatMoney(line.amount, locale)}</Table.Td>
            </Table.Tr>
          ))}
          <Table.Tr>
            <Table.Td c="dimmed">{own.tax}</Table.Td>
            <Table.Td ta="right">{formatMoney(cost.tax, locale)}</Table.Td>
          </Table.Tr>
          <Table.Tr>
            <Table.Th scope="row">{own.total}</Table.Th>
            <Table.Td ta="right" fw={700}>
              {formatMoney(cost.total, locale)}
            </Table.Td>
          </Table.Tr>
        </Table.Tbody>
      </Table>
      {hint && (
        <Text size="xs" c="dimmed">
          {hint}
        </Text>
      )}
    </Stack>
  );
}
