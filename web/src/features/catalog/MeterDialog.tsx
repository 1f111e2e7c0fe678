// SPDX-License-Identifier: Apache-2.0
import { Button, Group, Modal, NativeSelect, Stack, Text, TextInput } from '@mantine/core';
import { isNotEmpty, useForm } from '@mantine/form';
import { useState } from 'react';
import { useLocale, useTexts } from '@/ui/i18n';
import { meterName } from '@/ui/meters';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { useSubmit } from '@/ui/useSubmit';
import { wordTexts } from '@/ui/words';
import { type Filter, FiltersField, filtersOf, rowsOf } from './FiltersField';
import { kindHintTexts, kindTexts, meterFieldTexts, meterTexts } from './meterTexts';
import { type Meter, type NewMeter, type Product, useSaveMeter } from './ownProducts';

const KINDS = ['count', 'sum', 'max', 'last', 'unique', 'time_weighted'] as const;
const CALLS = 'api_calls';

type Props = {
  product: Product;
  meter: Meter | null;
  onClose: () => void;
  onSaved: (name: string) => void;
};

/** Makes a meter, or says anew what a known one counts: its key and kind stay. */
export function MeterDialog(props: Props) {
  const own = useTexts(meterTexts);
  const words = useTexts(wordTexts);
  const { locale } = useLocale();
  const { meter, onClose } = props;
  return (
    <Modal
      opened
      onClose={onClose}
      title={meter ? own.changeOf(meterName(meter.key, locale)) : own.create}
      closeButtonProps={{ 'aria-label': words.close }}
      radius="lg"
      size="lg"
      centered
    >
      <MeterForm {...props} />
    </Modal>
  );
}

function MeterForm({ product, meter, onClose, onSaved }: Props) {
  const own = useTexts(meterTexts);
  const words = useTexts(wordTexts);
  const kinds = useTexts(kindTexts);
  const hints: Record<string, string> = useTexts(kindHintTexts);
  const { locale } = useLocale();
  const save = useSaveMeter(product.id);
  const [filters, setFilters] = useState<Filter[]>(() => rowsOf(meter?.filters ?? {}));
  const form = useForm({
    initialValues: {
      key: meter?.key ?? '',
      unit: meter?.unit ?? '',
      aggregation: meter?.aggregation ?? 'sum',
      property: meter?.property ?? '',
      source_path: meter?.source_path ?? '',
    },
    validate: { key: isNotEmpty(words.required), unit: isNotEmpty(words.required) },
  });
  const unique = form.values.aggregation === 'unique';
  const readable = form.values.key !== CALLS && !unique;
  const send = async (values: typeof form.values) => {
    const given = {
      ...values,
      property: unique ? values.property || null : null,
      source_path: (readable && values.source_path.trim()) || null,
      filters: filtersOf(filters),
    };
    await save(given as NewMeter, meter);
    onSaved(meterName(given.key, locale));
    onClose();
  };
  const { onSubmit, pending, failure } = useSubmit(form, send, useTexts(meterFieldTexts));
  return (
    <form onSubmit={onSubmit} noValidate>
      <Stack>
        <ProblemAlert error={failure} />
        {!meter && (
          <TextInput
            label={own.key}
            description={own.keyHint}
            maxLength={50}
            required
            data-autofocus
            {...form.getInputProps('key')}
          />
        )}
        <TextInput
          label={own.unit}
          description={own.unitHint}
          maxLength={40}
          required
          {...form.getInputProps('unit')}
        />
        {meter ? (
          <div>
            <Text fw={500}>{kinds[meter.aggregation as keyof typeof kinds]}</Text>
            <Text size="sm" c="dimmed">
              {hints[meter.aggregation]} {own.stays}
            </Text>
          </div>
        ) : (
          <NativeSelect
            label={own.kind}
            description={hints[form.values.aggregation]}
            data={KINDS.map((value) => ({ value, label: kinds[value] }))}
            {...form.getInputProps('aggregation')}
          />
        )}
        {unique && !meter && (
          <TextInput
            label={own.property}
            description={own.propertyHint}
            maxLength={64}
            required
            {...form.getInputProps('property')}
          />
        )}
        {readable && (
          <TextInput
            label={own.sourcePath}
            description={own.sourceHint}
            placeholder="usage.total_tokens"
            maxLength={200}
            {...form.getInputProps('source_path')}
          />
        )}
        <FiltersField filters={filters} onChange={setFilters} />
        <Group justify="flex-end" mt="xs">
          <Button variant="default" onClick={onClose}>
            {words.cancel}
          </Button>
          <Button type="submit" loading={pending}>
            {own.save}
          </Button>
        </Group>
      </Stack>
    </form>
  );
}
