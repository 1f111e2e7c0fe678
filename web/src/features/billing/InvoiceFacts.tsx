// SPDX-License-Identifier: Apache-2.0
import { Group, Stack, Text } from '@mantine/core';
import type { ReactNode } from 'react';
import { formatDate, formatMoney } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { InvoiceStatus } from './InvoiceStatus';
import type { InvoiceDetail } from './invoices';
import { factTexts, invoiceTexts } from './texts';

/** How an invoice stands, between whom, and how it is paid. */
export function InvoiceFacts({ invoice }: { invoice: InvoiceDetail }) {
  const own = useTexts(factTexts);
  const words = useTexts(invoiceTexts);
  const { locale } = useLocale();
  const date = (value: string) => formatDate(value, locale);
  const { seller, buyer, issued_on, due_on, paid_at, payment_reference, taxes } = invoice;
  const sent = invoice.status === 'Sent' || invoice.status === 'Overdue';
  const open = sent && invoice.payment_state !== 'WrittenOff';
  return (
    <Stack gap={6} component="dl" m={0}>
      <Fact name={words.status}>
        <InvoiceStatus invoice={invoice} />
      </Fact>
      {seller && <Fact name={own.from}>{seller.name}</Fact>}
      {buyer && <Fact name={own.to}>{buyer.name}</Fact>}
      {issued_on && <Fact name={words.issued}>{date(issued_on)}</Fact>}
      {open && due_on && <Fact name={words.due}>{date(due_on)}</Fact>}
      {paid_at && <Fact name={own.paid}>{date(paid_at)}</Fact>}
      {open && payment_reference && <Fact name={own.reference}>{payment_reference}</Fact>}
      {open && seller?.iban && <Fact name={own.account}>{inFours(seller.iban)}</Fact>}
      {taxes.map((tax) => (
        <Fact key={`${tax.category} ${tax.rate}`} name={own.taxOf(tax.rate)}>
          {own.taxOver(formatMoney(tax.tax, locale), formatMoney(tax.base, locale))}
        </Fact>
      ))}
    </Stack>
  );
}

function Fact({ name, children }: { name: string; children: ReactNode }) {
  return (
    <Group justify="space-between" wrap="nowrap" gap="xl">
      <Text component="dt" size="sm" c="dimmed">
        {name}
      </Text>
      <Text component="dd" m={0} size="sm" ta="right">
        {children}
      </Text>
    </Group>
  );
}

function inFours(iban: string): string {
  return iban.replaceAll(/(.{4})(?=.)/g, '$1 ');
}
