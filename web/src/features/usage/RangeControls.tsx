// SPDX-License-Identifier: Apache-2.0
import { Group, SegmentedControl } from '@mantine/core';
import { useTexts } from '@/ui/i18n';
import { usageTexts } from './texts';
import type { Environment, UsageSearch } from './usage';

const DAYS = [7, 30, 90];

type Props = { search: UsageSearch; onSearch: (search: UsageSearch) => void };

/** Which days and which environment; the address keeps both. */
export function RangeControls({ search, onSearch }: Props) {
  const own = useTexts(usageTexts);
  return (
    <Group gap="xs">
      <SegmentedControl
        aria-label={own.environment}
        value={search.environment}
        onChange={(environment) => onSearch({ ...search, environment: environment as Environment })}
        data={[
          { value: 'Live', label: own.live },
          { value: 'Test', label: own.test },
        ]}
      />
      <SegmentedControl
        aria-label={own.range}
        value={String(search.days)}
        onChange={(days) => onSearch({ ...search, days: Number(days) })}
        data={DAYS.map((days) => ({ value: String(days), label: own.days(days) }))}
      />
    </Group>
  );
}
