// SPDX-License-Identifier: Apache-2.0
import { Button, Card, Group, NativeSelect, SimpleGrid, TextInput } from '@mantine/core';
import { useState } from 'react';
import { useMay } from '@/api/session';
import { useTexts } from '@/ui/i18n';
import { logTexts } from './logTexts';
import { type LogSearch, useKeyNames } from './usage';

const METHODS = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'HEAD', 'OPTIONS'];
const STATUS = /^[1-9](\d\d|xx)$/;

type Props = { search: LogSearch; onSearch: (search: LogSearch) => void };

/** What a person knows of the calls they look for; the address keeps it. */
export function LogFilters({ search, onSearch }: Props) {
  const own = useTexts(logTexts);
  const mayKeys = useMay('manage_api_keys');
  const keys = useKeyNames(mayKeys).data?.data ?? [];
  const set = (name: keyof LogSearch) => (value: string) => {
    const { [name]: _, ...rest } = search;
    onSearch(value ? ({ ...rest, [name]: value } as LogSearch) : rest);
  };
  const filtered = Object.keys(search).length > 0;
  return (
    <Card component="search" padding="md">
      <SimpleGrid cols={{ base: 2, sm: 3, lg: 4 }} spacing="sm">
        <Chosen label={own.from} type="date" value={search.from} onChosen={set('from')} />
        <Chosen label={own.to} type="date" value={search.to} onChosen={set('to')} />
        <Chosen
          label={own.status}
          placeholder={own.statusHint}
          value={search.status}
          accepts={STATUS}
          onChosen={set('status')}
        />
        <NativeSelect
          size="sm"
          label={own.kind}
          value={search.kind ?? ''}
          onChange={(event) => set('kind')(event.currentTarget.value)}
          data={[
            { value: '', label: own.all },
            { value: 'billable', label: own.billable },
            { value: 'unbilled', label: own.unbilled },
            { value: 'refused', label: own.refusedOnly },
          ]}
        />
        <NativeSelect
          size="sm"
          label={own.method}
          value={search.method ?? ''}
          onChange={(event) => set('method')(event.currentTarget.value)}
          data={[{ value: '', label: own.all }, ...METHODS]}
        />
        <NativeSelect
          size="sm"
          label={own.environment}
          value={search.environment ?? ''}
          onChange={(event) => set('environment')(event.currentTarget.value)}
          data={[{ value: '', label: own.both }, 'Live', 'Test']}
        />
        {mayKeys && (
          <NativeSelect
            size="sm"
            label={own.key}
            value={search.key_id ?? ''}
            onChange={(event) => set('key_id')(event.currentTarget.value)}
            data={[
              { value: '', label: own.allKeys },
              ...keys.map((key) => ({ value: key.id, label: key.name })),
            ]}
          />
        )}
        <Chosen label={own.requestId} value={search.request_id} onChosen={set('request_id')} />
      </SimpleGrid>
      {filtered && (
        <Group mt="sm">
          <Button size="compact-sm" variant="subtle" onClick={() => onSearch({})}>
            {own.clear}
          </Button>
        </Group>
      )}
    </Card>
  );
}

type ChosenProps = {
  label: string;
  value: string | undefined;
  onChosen: (value: string) => void;
  type?: string;
  placeholder?: string;
  accepts?: RegExp;
};

/** A field that asks when it is left, or at Enter: not at every letter. */
function Chosen({ label, value = '', onChosen, accepts, ...rest }: ChosenProps) {
  const [typed, setTyped] = useState<string | null>(null);
  const text = typed ?? value;
  const wrong = Boolean(accepts && text && !accepts.test(text));
  const done = () => {
    if (typed === null || wrong) return;
    setTyped(null);
    if (typed.trim() !== value) onChosen(typed.trim());
  };
  return (
    <TextInput
      {...rest}
      size="sm"
      label={label}
      value={text}
      error={wrong}
      onChange={(event) => setTyped(event.currentTarget.value)}
      onBlur={done}
      onKeyDown={(event) => event.key === 'Enter' && done()}
    />
  );
}
