// SPDX-License-Identifier: Apache-2.0
import { Table, Text } from '@mantine/core';
import { chargeTexts } from './chargeTexts';
import { formatNumber, formatUnitPrice } from './format';
import { useLocale, useTexts } from './i18n';
import { meterTitle } from './meters';
import { RowsTable } from './RowsTable';

/** A charge as the API shows it; amounts are decimal strings. */
export type Charge = {
  meter: string;
  model: string;
  included: string;
  unit_price: string;
  tiers: unknown[];
  package_size: string;
  package_price: string;
  rate: string;
};

type Props = { label: string; charges: Charge[]; currency: string };

/** What each meter costs. */
export function ChargesTable({ label, charges, currency }: Props) {
  const own = useTexts(chargeTexts);
  const models: Record<string, unknown> = own;
  const { locale } = useLocale();
  const price = (charge: Charge) => {
    if (charge.tiers.length > 0) return own.tiers(charge.tiers.length);
    if (charge.model === 'package') {
      const each = formatUnitPrice(charge.package_price, currency, locale);
      return own.block(each, formatNumber(charge.package_size, locale));
    }
    if (charge.model === 'unit') {
      return own.each(formatUnitPrice(charge.unit_price, currency, locale));
    }
    return own.rate(formatNumber(charge.rate, locale));
  };
  if (charges.length === 0) {
    return (
      <Text size="sm" c="dimmed" p="lg" pt={0}>
        {own.none}
      </Text>
    );
  }
  return (
    <RowsTable
      label={label}
      columns={[
        { label: own.meter },
        { label: own.model },
        { label: own.included, numeric: true },
        { label: own.price, numeric: true },
      ]}
    >
      {charges.map((charge) => (
        <Table.Tr key={charge.meter}>
          <Table.Td data-label={own.meter}>{meterTitle(charge.meter, locale)}</Table.Td>
          <Table.Td data-label={own.model}>{String(models[charge.model] ?? charge.model)}</Table.Td>
          <Table.Td ta="right" data-label={own.included}>
            {charge.included === '0' ? '–' : formatNumber(charge.included, locale)}
          </Table.Td>
          <Table.Td ta="right" data-label={own.price}>
            {price(charge)}
          </Table.Td>
        </Table.Tr>
      ))}
    </RowsTable>
  );
}
