// SPDX-License-Identifier: Apache-2.0
import { Button, Group, Modal, NumberInput, Stack, Text, TextInput } from '@mantine/core';
import { isNotEmpty, useForm } from '@mantine/form';
import { useLocale, useTexts } from '@/ui/i18n';
import { meterName } from '@/ui/meters';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { useSubmit } from '@/ui/useSubmit';
import { wordTexts } from '@/ui/words';
import { dayAfter, lastDay, startOf } from '@/ui/zone';
import { type Consumer, increaseQuota, type Quota, resetQuota } from './consumers';
import { adjustTexts, detailTexts, quotaFieldTexts } from './texts';

export type Adjustment = { kind: 'reset' | 'increase'; quota: Quota };

type Props = {
  consumer: Consumer;
  asked: Adjustment;
  onClose: () => void;
  onDone: (said: string) => Promise<void>;
};

/** Lets a quota begin anew, or gives more for a time: always with a reason. */
export function QuotaDialog({ consumer, asked, onClose, onDone }: Props) {
  const own = useTexts(adjustTexts);
  const detail = useTexts(detailTexts);
  const words = useTexts(wordTexts);
  const { locale } = useLocale();
  const { kind, quota } = asked;
  const name = meterName(quota.meter, locale);
  const more = kind === 'increase';
  const title = more ? detail.increaseOf(name) : detail.resetOf(name);
  const form = useForm({
    initialValues: {
      units: '' as number | '',
      ends_at: lastDay(quota.resets_at),
      reason: '',
    },
    validate: {
      reason: isNotEmpty(words.required),
      units: (value) => (more && value === '' ? words.required : null),
      ends_at: (value) => (more && !value ? words.required : null),
    },
  });
  const send = async ({ units, ends_at, reason }: typeof form.values) => {
    if (more) {
      const until = startOf(dayAfter(ends_at));
      await increaseQuota(consumer, quota, { reason, units: Number(units), ends_at: until });
    } else {
      await resetQuota(consumer, quota, reason);
    }
    await onDone(`${title}: ${own.done}`);
    onClose();
  };
  const { onSubmit, pending, failure } = useSubmit(form, send, useTexts(quotaFieldTexts));
  return (
    <Modal
      opened
      onClose={onClose}
      title={title}
      closeButtonProps={{ 'aria-label': words.close }}
      radius="lg"
      centered
    >
      <form onSubmit={onSubmit} noValidate>
        <Stack>
          <Text size="sm">{more ? own.increaseHint : own.resetHint}</Text>
          <ProblemAlert error={failure} />
          {more && (
            <>
              <NumberInput
                label={own.units}
                min={1}
                max={1_000_000_000_000}
                allowDecimal={false}
                required
                data-autofocus
                {...form.getInputProps('units')}
              />
              <TextInput
                type="date"
                label={own.until}
                required
                {...form.getInputProps('ends_at')}
              />
            </>
          )}
          <TextInput
            label={own.reason}
            description={own.reasonHint}
            maxLength={500}
            required
            {...(!more && { 'data-autofocus': true })}
            {...form.getInputProps('reason')}
          />
          <Group justify="flex-end">
            <Button variant="default" onClick={onClose}>
              {words.cancel}
            </Button>
            <Button type="submit" loading={pending}>
              {more ? detail.increase : detail.reset}
            </Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  );
}
