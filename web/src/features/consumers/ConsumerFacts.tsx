// SPDX-License-Identifier: Apache-2.0
import { SimpleGrid, Text } from '@mantine/core';
import type { ReactNode } from 'react';
import { countryName, formatDate, formatMoney, formatNumber } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { lastDay } from '@/ui/zone';
import type { Consumer } from './consumers';
import { consumerTexts, detailTexts } from './texts';

/** What was agreed with a subscriber, since when, and what is about to change. */
export function ConsumerFacts({ consumer }: { consumer: Consumer }) {
  const own = useTexts(detailTexts);
  const list = useTexts(consumerTexts);
  const { locale } = useLocale();
  const date = (at: string) => formatDate(at, locale);
  const { plan, add_ons, scheduled_change: waiting, ends_at, trial_ends_at } = consumer;
  const extras = add_ons.map((one) =>
    own.addOn(one.name, formatNumber(one.quantity, locale), formatMoney(one.fee, locale)),
  );
  const running = consumer.status !== 'Expired';
  return (
    <SimpleGrid component="dl" cols={{ base: 1, xs: 2, md: 3 }} m={0} spacing="md">
      <Fact name={list.plan}>
        {own.signed(plan.name, plan.plan_version)}
        {consumer.contract && ` · ${list.contract}`}
      </Fact>
      <Fact name={list.fee}>{formatMoney(consumer.base_fee, locale)}</Fact>
      <Fact name={own.addOns}>{extras.length > 0 ? extras.join(', ') : own.noAddOns}</Fact>
      <Fact name={own.country}>{countryName(consumer.country, locale)}</Fact>
      <Fact name={list.since}>{date(consumer.started_at)}</Fact>
      {running && <Fact name={own.period}>{date(lastDay(consumer.period_ends_at))}</Fact>}
      {consumer.status === 'Trial' && trial_ends_at && (
        <Fact name={own.trial}>{date(trial_ends_at)}</Fact>
      )}
      {ends_at && <Fact name={running ? own.ends : own.ended}>{date(ends_at)}</Fact>}
      {consumer.cancel_reason && <Fact name={own.why}>{consumer.cancel_reason}</Fact>}
      {waiting && (
        <Fact name={own.waits(date(waiting.at))}>
          {[
            ...(waiting.plan ? [own.toPlan(waiting.plan)] : []),
            ...waiting.add_ons.map((one) =>
              own.toAddOn(one.name, formatNumber(one.quantity, locale)),
            ),
          ].join(', ')}
        </Fact>
      )}
    </SimpleGrid>
  );
}

function Fact({ name, children }: { name: string; children: ReactNode }) {
  return (
    <div>
      <Text component="dt" size="sm" c="dimmed">
        {name}
      </Text>
      <Text component="dd" m={0} size="sm">
        {children}
      </Text>
    </div>
  );
}
