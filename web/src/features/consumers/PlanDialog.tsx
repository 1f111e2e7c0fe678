// SPDX-License-Identifier: Apache-2.0
import { Button, Group, Modal, NativeSelect, Radio, Stack, Text } from '@mantine/core';
import { useForm } from '@mantine/form';
import { formatDate, formatMoney } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { RowsLoading } from '@/ui/Loading';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { useSubmit } from '@/ui/useSubmit';
import { wordTexts } from '@/ui/words';
import { type Consumer, setPlan, usePlansOf } from './consumers';
import { detailTexts, planTexts } from './texts';

type Props = {
  consumer: Consumer;
  onClose: () => void;
  onDone: (said: string) => Promise<void>;
};

/** Puts a subscriber on another plan, or on the present version of its own. */
export function PlanDialog({ consumer, onClose, onDone }: Props) {
  const own = useTexts(planTexts);
  const words = useTexts(wordTexts);
  const title = useTexts(detailTexts).changePlan;
  return (
    <Modal
      opened
      onClose={onClose}
      title={title}
      closeButtonProps={{ 'aria-label': words.close }}
      radius="lg"
      centered
    >
      <PlanForm
        consumer={consumer}
        onClose={onClose}
        onDone={() => onDone(own.done(consumer.name))}
      />
    </Modal>
  );
}

type FormProps = { consumer: Consumer; onClose: () => void; onDone: () => Promise<void> };

function PlanForm({ consumer, onClose, onDone }: FormProps) {
  const own = useTexts(planTexts);
  const words = useTexts(wordTexts);
  const { locale } = useLocale();
  const plans = usePlansOf(consumer.product.slug);
  const { currency } = consumer.base_fee;
  const offers = (plans.data ?? []).flatMap((plan) => {
    const price = plan.prices.find((one) => one.base_fee.currency === currency);
    return price && plan.slug !== consumer.plan.slug ? [{ plan, fee: price.base_fee }] : [];
  });
  const form = useForm({ initialValues: { plan: '', when: 'end' } });
  const { onSubmit, pending, failure } = useSubmit(form, async ({ plan, when }) => {
    await setPlan(consumer, plan || (offers[0]?.plan.slug ?? ''), when === 'now');
    await onDone();
    onClose();
  });
  if (plans.isPending) return <RowsLoading rows={2} />;
  return (
    <form onSubmit={onSubmit} noValidate>
      <Stack>
        <ProblemAlert error={plans.error} retry={() => plans.refetch()} />
        {plans.isSuccess && offers.length === 0 && <Text size="sm">{own.none}</Text>}
        {offers.length > 0 && (
          <NativeSelect
            label={own.to}
            data={offers.map(({ plan, fee }) => ({
              value: plan.slug,
              label: `${plan.name}, ${formatMoney(fee, locale)}`,
            }))}
            {...form.getInputProps('plan')}
          />
        )}
        <Radio.Group label={own.when} {...form.getInputProps('when')}>
          <Stack gap="xs" mt="xs">
            <Radio value="end" label={own.atEnd(formatDate(consumer.period_ends_at, locale))} />
            <Radio value="now" label={own.now} />
          </Stack>
        </Radio.Group>
        {consumer.contract && <Text size="sm">{own.contractEnds}</Text>}
        <ProblemAlert error={failure} />
        <Group justify="flex-end">
          <Button variant="default" onClick={onClose}>
            {words.cancel}
          </Button>
          <Button type="submit" loading={pending} disabled={offers.length === 0}>
            {own.action}
          </Button>
        </Group>
      </Stack>
    </form>
  );
}
