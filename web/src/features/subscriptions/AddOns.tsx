// SPDX-License-Identifier: Apache-2.0
import { Button, Group, NumberInput, Stack, Text } from '@mantine/core';
import { useState } from 'react';
import { formatMoney, formatNumber, type Money } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { type Change, type Subscription, useOffer } from './subscriptions';
import { intervalTexts, subscriptionTexts } from './texts';

type Props = { subscription: Subscription; onChange: (change: Change) => void };

/** What can be had beside the plan: how much of it there is, more of it, or none any more. */
export function AddOns({ subscription, onChange }: Props) {
  const own = useTexts(subscriptionTexts);
  const offer = useOffer(subscription.product.slug);
  const offered = (offer.data?.add_ons ?? []).flatMap((one) => {
    const price = one.prices.find((item) => item.base_fee.currency === subscription.currency);
    return price ? [{ ...one, fee: price.base_fee, once: one.base_fee_timing === 'once' }] : [];
  });
  // Who took an add-on keeps it though it is offered no more.
  const gone = subscription.add_ons
    .filter((had) => offered.every((one) => one.slug !== had.slug))
    .map((had) => ({ ...had, once: false }));
  if (offered.length + gone.length === 0) return null;
  return (
    <Stack gap="xs">
      <Text fw={600} size="sm">
        {own.addOns}
      </Text>
      {[...offered, ...gone].map((one) => (
        <AddOn key={one.slug} item={one} subscription={subscription} onChange={onChange} />
      ))}
    </Stack>
  );
}

type Item = { slug: string; name: string; fee: Money; once: boolean };

function AddOn({ item, subscription, onChange }: Props & { item: Item }) {
  const own = useTexts(subscriptionTexts);
  const intervals: Record<string, string> = useTexts(intervalTexts);
  const { locale } = useLocale();
  const had = subscription.add_ons.find((one) => one.slug === item.slug);
  const [quantity, setQuantity] = useState<number | string>(had?.quantity ?? 1);
  const price = subscription.price;
  const every =
    item.once || !price
      ? own.once
      : own.every(price.interval_count, intervals[price.interval] ?? price.interval);
  const wished = Number(quantity);
  return (
    <Group justify="space-between">
      <div>
        <Text size="sm">
          {item.name}, {own.fee(formatMoney(item.fee, locale), every)}
        </Text>
        {had && (
          <Text size="xs" c="dimmed">
            {own.have(formatNumber(had.quantity, locale))}
          </Text>
        )}
      </div>
      <Group gap={8} wrap="nowrap">
        <NumberInput
          aria-label={own.quantity(item.name)}
          value={quantity}
          onChange={setQuantity}
          min={1}
          max={1_000_000}
          allowDecimal={false}
          w={96}
        />
        <Button
          variant="light"
          disabled={wished < 1 || wished === had?.quantity}
          onClick={() =>
            onChange({ change: 'take_add_on', add_on: item.slug, quantity: wished } as Change)
          }
        >
          {had ? own.change : own.take}
        </Button>
        {had && (
          <Button
            variant="default"
            aria-label={own.leave(item.name)}
            onClick={() => onChange({ change: 'leave_add_on', add_on_id: had.id } as Change)}
          >
            {own.leaveShort}
          </Button>
        )}
      </Group>
    </Group>
  );
}
