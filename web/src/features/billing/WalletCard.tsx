// SPDX-License-Identifier: Apache-2.0
import {
  Alert,
  Button,
  Card,
  Group,
  NumberInput,
  Stack,
  Text,
  TextInput,
  Title,
} from '@mantine/core';
import { useForm } from '@mantine/form';
import { useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import type { Schemas } from '@/api/client';
import { useMay } from '@/api/session';
import { formatMoney } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { useSubmit } from '@/ui/useSubmit';
import { redeemCoupon, topUp, useCoupons, useWallet } from './invoices';
import { Sum } from './Sums';
import { walletTexts } from './texts';

/** What the next invoices are paid out of, coupons, and how to add either. */
export function WalletCard() {
  const own = useTexts(walletTexts);
  const wallet = useWallet();
  const coupons = useCoupons();
  const mayTopUp = useMay('manage_payment_methods');
  const mayRedeem = useMay('manage_subscriptions');
  return (
    <Card>
      <Title order={2} size="h4">
        {own.title}
      </Title>
      <Text size="sm" c="dimmed" mb="md">
        {own.hint}
      </Text>
      <ProblemAlert error={wallet.error} retry={() => wallet.refetch()} />
      {wallet.data && (
        <Stack gap={6} component="dl" m={0}>
          <Sum label={own.balance} money={wallet.data.balance} strong />
          <Sum label={own.credit} money={wallet.data.credit} />
        </Stack>
      )}
      {coupons.data?.data.map((one) => (
        <Text key={one.id} size="sm" mt="xs">
          {own.coupon(one.coupon.code, one.coupon.name)}
        </Text>
      ))}
      <Group align="flex-start" mt="md" gap="xl">
        {mayTopUp && wallet.data && <TopUpForm currency={wallet.data.balance.currency} />}
        {mayRedeem && <CouponForm />}
      </Group>
    </Card>
  );
}

function TopUpForm({ currency }: { currency: string }) {
  const own = useTexts(walletTexts);
  const { locale } = useLocale();
  const client = useQueryClient();
  const [asked, setAsked] = useState<Schemas['TopUpView'] | null>(null);
  const form = useForm({ mode: 'uncontrolled', initialValues: { amount: 50 } });
  const { onSubmit, pending, failure } = useSubmit(form, async ({ amount }) => {
    setAsked(await topUp(Math.round(amount * 10 ** digitsOf(currency)), currency));
    await client.invalidateQueries({ queryKey: ['wallet'] });
  });
  return (
    <form onSubmit={onSubmit} aria-label={own.topUp}>
      <Stack gap="xs">
        <ProblemAlert error={failure} />
        <Group align="flex-end" gap="xs">
          <NumberInput
            label={own.amount(currency)}
            min={1}
            decimalScale={digitsOf(currency)}
            w={150}
            key={form.key('amount')}
            {...form.getInputProps('amount')}
          />
          <Button type="submit" variant="light" loading={pending}>
            {own.topUp}
          </Button>
        </Group>
        {asked && (
          <Alert role="status" maw={360}>
            {own.transfer(formatMoney(asked.amount, locale), asked.payment_reference)}
          </Alert>
        )}
      </Stack>
    </form>
  );
}

function CouponForm() {
  const own = useTexts(walletTexts);
  const client = useQueryClient();
  const form = useForm({ mode: 'uncontrolled', initialValues: { code: '' } });
  const { onSubmit, pending, failure } = useSubmit(form, async ({ code }) => {
    await redeemCoupon(code);
    form.reset();
    await client.invalidateQueries({ queryKey: ['coupons'] });
    await client.invalidateQueries({ queryKey: ['upcoming'] });
  });
  return (
    <form onSubmit={onSubmit} aria-label={own.redeem}>
      <Stack gap="xs">
        <ProblemAlert error={failure} />
        <Group align="flex-end" gap="xs">
          <TextInput
            label={own.code}
            w={180}
            required
            key={form.key('code')}
            {...form.getInputProps('code')}
          />
          <Button type="submit" variant="light" loading={pending}>
            {own.redeem}
          </Button>
        </Group>
      </Stack>
    </form>
  );
}

function digitsOf(currency: string): number {
  const format = new Intl.NumberFormat('en', { style: 'currency', currency });
  return format.resolvedOptions().maximumFractionDigits ?? 2;
}
