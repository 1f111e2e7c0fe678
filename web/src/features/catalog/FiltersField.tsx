// SPDX-License-Identifier: Apache-2.0
import { Button, Fieldset, Group, Stack, Text, TextInput } from '@mantine/core';
import { useTexts } from '@/ui/i18n';
import { meterTexts } from './meterTexts';

/** One condition as it is typed: a property, and the values that count, between commas. */
export type Filter = { id: number; property: string; values: string };

/** The conditions of a meter as rows to type in. */
export function rowsOf(filters: Record<string, string[]>): Filter[] {
  return Object.entries(filters).map(([property, values], id) => ({
    id,
    property,
    values: values.join(', '),
  }));
}

/** The rows as the API takes them; a row without a property says nothing. */
export function filtersOf(rows: Filter[]): Record<string, string[]> {
  const said = rows.filter((row) => row.property.trim());
  return Object.fromEntries(
    said.map((row) => [
      row.property.trim(),
      row.values
        .split(',')
        .map((value) => value.trim())
        .filter(Boolean),
    ]),
  );
}

type Props = { filters: Filter[]; onChange: (filters: Filter[]) => void };

/** Which events count: all of them, or those whose properties have given values. */
export function FiltersField({ filters, onChange }: Props) {
  const own = useTexts(meterTexts);
  const set = (id: number, part: Partial<Filter>) =>
    onChange(filters.map((row) => (row.id === id ? { ...row, ...part } : row)));
  const add = () => {
    const id = Math.max(-1, ...filters.map((row) => row.id)) + 1;
    onChange([...filters, { id, property: '', values: '' }]);
  };
  return (
    <Fieldset legend={own.filters} radius="md">
      <Stack gap="sm">
        <Text size="sm" c="dimmed">
          {filters.length === 0 ? own.noFilters : own.filtersHint}
        </Text>
        {filters.map((row) => (
          <Group key={row.id} align="flex-end" gap="xs">
            <TextInput
              label={own.filterProperty}
              size="sm"
              w={160}
              maxLength={64}
              value={row.property}
              onChange={(event) => set(row.id, { property: event.currentTarget.value })}
            />
            <TextInput
              label={own.filterValues}
              size="sm"
              flex={1}
              miw={160}
              value={row.values}
              onChange={(event) => set(row.id, { values: event.currentTarget.value })}
            />
            <Button
              size="sm"
              variant="default"
              aria-label={own.removeFilter(row.property)}
              onClick={() => onChange(filters.filter((one) => one.id !== row.id))}
            >
              {own.remove}
            </Button>
          </Group>
        ))}
        <Group>
          <Button size="compact-sm" variant="light" onClick={add} disabled={filters.length >= 10}>
            {own.addFilter}
          </Button>
        </Group>
      </Stack>
    </Fieldset>
  );
}
