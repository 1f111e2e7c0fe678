// SPDX-License-Identifier: Apache-2.0
import { Button, Fieldset, Group, Modal, NumberInput, Stack, Text } from '@mantine/core';
import { useForm } from '@mantine/form';
import { chargeTexts } from '@/ui/chargeTexts';
import { useLocale, useTexts } from '@/ui/i18n';
import { meterName, meterTitle, periodTexts } from '@/ui/meters';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { useSubmit } from '@/ui/useSubmit';
import { wordTexts } from '@/ui/words';
import { type Detail, setContract } from './consumers';
import { agreed, asTyped, pathOf, type Typed } from './contract';
import { contractTexts, detailTexts } from './texts';

// A Dutch hand types a comma.
const SEPARATORS = ['.', ','];

type Props = {
  detail: Detail;
  onClose: () => void;
  onDone: (said: string) => Promise<void>;
};

/** Agrees a fee, prices, included amounts, quotas and a rate limit with one subscriber. */
export function ContractDialog({ detail, onClose, onDone }: Props) {
  const title = useTexts(detailTexts).agree;
  const words = useTexts(wordTexts);
  return (
    <Modal
      opened
      onClose={onClose}
      title={title}
      closeButtonProps={{ 'aria-label': words.close }}
      radius="lg"
      size="lg"
      centered
    >
      <ContractForm detail={detail} onClose={onClose} onDone={onDone} />
    </Modal>
  );
}

function ContractForm({ detail, onClose, onDone }: Props) {
  const own = useTexts(contractTexts);
  const words = useTexts(wordTexts);
  const models: Record<string, unknown> = useTexts(chargeTexts);
  const periods = useTexts(periodTexts);
  const { locale } = useLocale();
  const { consumer, terms } = detail;
  const { currency } = consumer.base_fee;
  const form = useForm<Typed>({ initialValues: asTyped(detail) });
  // What the API refuses of a charge is said at the field that it came from.
  const { onSubmit, pending, failure } = useSubmit(form, async (typed) => {
    await setContract(consumer, agreed(detail, typed)).catch((error) => {
      throw pathOf(error);
    });
    await onDone(own.done(consumer.name));
    onClose();
  });
  return (
    <form onSubmit={onSubmit} noValidate>
      <Stack>
        <Text size="sm">{own.hint}</Text>
        <ProblemAlert error={failure} />
        <NumberInput
          label={own.fee(currency)}
          min={0}
          decimalScale={2}
          fixedDecimalScale
          allowedDecimalSeparators={SEPARATORS}
          data-autofocus
          {...form.getInputProps('fee')}
        />
        {terms.charges.map((charge, at) => (
          <Fieldset key={charge.meter} legend={meterTitle(charge.meter, locale)} radius="md">
            <Group align="flex-end" grow>
              <NumberInput
                label={own.included}
                min={0}
                {...form.getInputProps(`charges.${at}.included`)}
              />
              {charge.model === 'unit' ? (
                <NumberInput
                  label={own.price(currency)}
                  min={0}
                  decimalScale={12}
                  allowedDecimalSeparators={SEPARATORS}
                  {...form.getInputProps(`charges.${at}.unit_price`)}
                />
              ) : (
                <Text size="sm" c="dimmed">
                  {own.modelStays(String(models[charge.model]))}
                </Text>
              )}
            </Group>
          </Fieldset>
        ))}
        {terms.quotas.map((quota, at) => (
          <NumberInput
            key={`${quota.meter} ${quota.period}`}
            label={own.quota(meterName(quota.meter, locale), periods[quota.period])}
            description={own.quotaHint}
            min={0}
            allowDecimal={false}
            {...form.getInputProps(`quotas.${at}.amount`)}
          />
        ))}
        {terms.rate_limit && (
          <NumberInput
            label={own.rate(own[terms.rate_limit.period])}
            min={1}
            max={1_000_000}
            allowDecimal={false}
            {...form.getInputProps('rate')}
          />
        )}
        <Group justify="flex-end">
          <Button variant="default" onClick={onClose}>
            {words.cancel}
          </Button>
          <Button type="submit" loading={pending}>
            {own.action}
          </Button>
        </Group>
      </Stack>
    </form>
  );
}
