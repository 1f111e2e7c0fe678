// SPDX-License-Identifier: Apache-2.0
import {
  Button,
  Group,
  Modal,
  NativeSelect,
  Stack,
  Table,
  Text,
  Textarea,
  TextInput,
} from '@mantine/core';
import { isNotEmpty, useForm } from '@mantine/form';
import { formatMoney, formatNumber, type Money } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { RowsLoading } from '@/ui/Loading';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { useSubmit } from '@/ui/useSubmit';
import { wordTexts } from '@/ui/words';
import { startOf } from '@/ui/zone';
import { type Plan, type Product, useMovePlan, useMovePreview } from './ownProducts';
import { moveFieldTexts, moveTexts, salesTexts } from './planTexts';

type Props = {
  product: Product;
  plan: Plan;
  plans: Plan[];
  onClose: () => void;
  onMoved: () => void;
};

/** Moves a plan's subscribers to another version: shows whom and at what price, then does it. */
export function MoveDialog(props: Props) {
  const own = useTexts(salesTexts);
  const words = useTexts(wordTexts);
  return (
    <Modal
      opened
      onClose={props.onClose}
      title={own.moveOf(props.plan.name)}
      closeButtonProps={{ 'aria-label': words.close }}
      radius="lg"
      size="lg"
      centered
    >
      <MoveForm {...props} />
    </Modal>
  );
}

function MoveForm({ product, plan, plans, onClose, onMoved }: Props) {
  const own = useTexts(moveTexts);
  const words = useTexts(wordTexts);
  const path = { product_id: product.id, plan_id: plan.id };
  const movePlan = useMovePlan(path);
  const form = useForm({
    initialValues: { to_plan: plan.slug, reason: '', not_before: '' },
    validate: { reason: isNotEmpty(words.required) },
  });
  const preview = useMovePreview(path, form.values.to_plan);
  const { onSubmit, pending, failure } = useSubmit(
    form,
    async ({ to_plan, reason, not_before }) => {
      await movePlan({
        to_plan,
        reason,
        not_before: not_before ? startOf(not_before) : null,
      });
      onMoved();
      onClose();
    },
    useTexts(moveFieldTexts),
  );
  const targets = plans.filter((one) => one.status === 'active');
  const nobody = preview.data?.total === 0;
  return (
    <form onSubmit={onSubmit} noValidate>
      <Stack>
        <Text size="sm">{own.hint}</Text>
        <NativeSelect
          label={own.to}
          data={targets.map((one) => ({
            value: one.slug,
            label: own.target(one.name, one.plan_version),
          }))}
          {...form.getInputProps('to_plan')}
        />
        {preview.isPending && <RowsLoading rows={2} />}
        <ProblemAlert error={preview.error} retry={() => preview.refetch()} />
        {preview.data && <Preview preview={preview.data} />}
        <TextInput
          type="date"
          label={own.notBefore}
          description={own.notBeforeHint}
          {...form.getInputProps('not_before')}
        />
        <Textarea
          label={own.reason}
          description={own.reasonHint}
          maxLength={500}
          autosize
          minRows={2}
          required
          {...form.getInputProps('reason')}
        />
        <ProblemAlert error={failure} />
        <Group justify="flex-end">
          <Button variant="default" onClick={onClose}>
            {words.cancel}
          </Button>
          <Button type="submit" loading={pending} disabled={!preview.data || nobody}>
            {own.action}
          </Button>
        </Group>
      </Stack>
    </form>
  );
}

type Shown = NonNullable<ReturnType<typeof useMovePreview>['data']>;

function Preview({ preview }: { preview: Shown }) {
  const own = useTexts(moveTexts);
  const { locale } = useLocale();
  const number = (value: number) => formatNumber(value, locale);
  const fee = (money: Money | null) => (money ? formatMoney(money, locale) : '–');
  if (preview.total === 0)
    return (
      <Text size="sm" role="status">
        {own.nobody}
      </Text>
    );
  return (
    <Stack gap={4} role="status">
      <Text size="sm" fw={600}>
        {own.total(number(preview.total - preview.left_out))}{' '}
        {preview.left_out > 0 && own.leftOut(number(preview.left_out))}
      </Text>
      <Table aria-label={own.preview} verticalSpacing={6}>
        <Table.Thead>
          <Table.Tr>
            <Table.Th>{own.signed}</Table.Th>
            <Table.Th ta="right">{own.subscribers}</Table.Th>
            <Table.Th ta="right">{own.feeNow}</Table.Th>
            <Table.Th ta="right">{own.feeThen}</Table.Th>
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {preview.versions.map((one) => (
            <Table.Tr key={`${one.plan_version} ${one.fee?.currency}`}>
              <Table.Td>{one.contract ? own.contract : own.version(one.plan_version)}</Table.Td>
              <Table.Td ta="right">{number(one.subscribers)}</Table.Td>
              <Table.Td ta="right">{fee(one.fee)}</Table.Td>
              <Table.Td ta="right">{one.contract ? '–' : fee(one.fee_then)}</Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
    </Stack>
  );
}
