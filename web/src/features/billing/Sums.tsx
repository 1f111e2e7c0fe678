// SPDX-License-Identifier: Apache-2.0
import { Group, Stack, Text } from '@mantine/core';
import { formatMoney, type Money } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { sumTexts } from './texts';

type Summed = {
  subtotal: Money;
  tax: Money;
  total: Money;
  credited: Money;
  wallet: Money;
  due: Money;
  status?: string;
};

/** What an invoice adds up to, and what was taken off before it is paid. */
export function Sums({ invoice }: { invoice: Summed }) {
  const own = useTexts(sumTexts);
  return (
    <Stack gap={6} w="100%" maw={420} component="dl" m={0} ml="auto">
      <Sum label={own.subtotal} money={invoice.subtotal} />
      <Sum label={own.tax} money={invoice.tax} />
      <Sum label={own.total} money={invoice.total} strong />
      {invoice.credited.amount_minor > 0 && <Sum label={own.credited} money={invoice.credited} />}
      {invoice.wallet.amount_minor > 0 && <Sum label={own.wallet} money={invoice.wallet} />}
      {invoice.status !== 'Cancelled' && (
        <Sum label={invoice.status === 'Paid' ? own.paid : own.due} money={invoice.due} strong />
      )}
    </Stack>
  );
}

export function Sum({ label, money, strong }: { label: string; money: Money; strong?: boolean }) {
  const { locale } = useLocale();
  return (
    <Group justify="space-between" wrap="nowrap" gap="xl">
      <Text component="dt" size="sm" {...(!strong && { c: 'dimmed' })} fw={strong ? 600 : 400}>
        {label}
      </Text>
      <Text component="dd" m={0} size="sm" fw={strong ? 700 : 400}>
        {formatMoney(money, locale)}
      </Text>
    </Group>
  );
}
