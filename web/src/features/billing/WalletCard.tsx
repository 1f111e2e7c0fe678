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
  VisuallyHidden,
} from '@mantine/core';
import { useForm } from '@mantine/form';
import { useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import type { Schemas } from '@/api/client';
import { useMay } from '@/api/session';
import { formatMoney, formatNumber } from '@/ui/format';
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
  const { locale } = useLocale();
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
      {wallet.data?.top_ups
        .filter((one) => one.status === 'Pending')
        .map((one) => (
          <Alert key={one.id} variant="light" role="note" mt="sm" py="xs">
            {own.transfer(formatMoney(one.amount, locale), one.payment_reference)}
          </Alert>
        ))}
      {coupons.data?.data.map((one) => (
        <CouponLine key={one.id} coupon={one.coupon} />
      ))}
      <Group align="flex-start" mt="md" gap="xl">
        {mayTopUp && wallet.data && <TopUpForm currency={wallet.data.balance.currency} />}
        {mayRedeem && <CouponForm />}
      </Group>
    </Card>
  );
}

/** What a coupon takes off, and how often. */
function CouponLine({ coupon }: { coupon: Schemas['CouponView'] }) {
  const own = useTexts(walletTexts);
  const { locale } = useLocale();
  const { amount, percent, times } = coupon;
  const off = amount ? formatMoney(amount, locale) : `${formatNumber(percent ?? '0', locale)} %`;
  return (
    <Text size="sm" mt="xs">
      {own.coupon(coupon.code, coupon.name)}: {times ? own.offTimes(off, times) : own.off(off)}
    </Text>
  );
}

function TopUpForm({ currency }: { currency: string }) {
  const own = useTexts(walletTexts);
  const client = useQueryClient();
  const [said, setSaid] = useState('');
  const { locale } = useLocale();
  const form = useForm({ mode: 'uncontrolled', initialValues: { amount: 50 } });
  const { onSubmit, pending, failure } = useSubmit(form, async ({ amount }) => {
    const asked = await topUp(Math.round(amount * 10 ** digitsOf(currency)), currency);
    setSaid(own.transfer(formatMoney(asked.amount, locale), asked.payment_reference));
    await client.invalidateQueries({ queryKey: ['wallet'] });
  });
  return (
    <form onSubmit={onSubmit} aria-label={own.topUp}>
      <Stack gap="xs">
        <ProblemAlert error={failure} />
        <Group align="flex-end" gap="xs">
          <NumberInput
            label={own.amount(currency)}
            size="sm"
            min={1}
            decimalScale={digitsOf(currency)}
            allowedDecimalSeparators={['.', ',']}
            w={150}
            key={form.key('amount')}
            {...form.getInputProps('amount')}
          />
          <Button type="submit" variant="light" loading={pending}>
            {own.topUp}
          </Button>
        </Group>
        <VisuallyHidden aria-live="polite">{said}</VisuallyHidden>
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
            size="sm"
            w={180}
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
