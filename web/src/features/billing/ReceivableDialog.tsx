// SPDX-License-Identifier: Apache-2.0
import { Button, Group, Modal, Stack, Text, TextInput } from '@mantine/core';
import { useForm } from '@mantine/form';
import { formatMoney } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { useSubmit } from '@/ui/useSubmit';
import { wordTexts } from '@/ui/words';
import { type Deed, type Receivable, useReceivableDeed } from './receivables';
import { receivableTexts } from './receivableTexts';

type Props = {
  deed: Deed;
  invoice: Receivable;
  onClose: () => void;
  onDone: (said: string) => void;
};

/** Asks for what a deed needs, and says what it does, before it is done. */
export function ReceivableDialog({ deed, invoice, onClose, onDone }: Props) {
  const own = useTexts(receivableTexts);
  const words = useTexts(wordTexts);
  const { locale } = useLocale();
  const carryOut = useReceivableDeed();
  const title = own.of(own[deed], invoice.number ?? invoice.organization);
  const form = useForm({
    initialValues: { reference: '', reason: '' },
    validate: { reason: (text) => (deed === 'writeOff' && !text.trim() ? words.required : null) },
  });
  const { onSubmit, pending, failure } = useSubmit(form, async ({ reference, reason }) => {
    await carryOut(deed, invoice, deed === 'pay' ? reference : reason);
    onDone(`${title}: ${own.done}`);
    onClose();
  });
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
          <Text size="sm">
            {invoice.organization}, {formatMoney(invoice.due, locale)}. {own[`${deed}Hint`]}
          </Text>
          <ProblemAlert error={failure} />
          {deed === 'pay' && (
            <TextInput
              label={own.reference}
              maxLength={200}
              data-autofocus
              {...form.getInputProps('reference')}
            />
          )}
          {deed === 'writeOff' && (
            <TextInput
              label={own.reason}
              maxLength={500}
              required
              data-autofocus
              {...form.getInputProps('reason')}
            />
          )}
          <Group justify="flex-end">
            <Button variant="default" onClick={onClose}>
              {words.cancel}
            </Button>
            <Button
              type="submit"
              loading={pending}
              {...(deed === 'writeOff' && { color: 'red.9' })}
            >
              {own[deed]}
            </Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  );
}
