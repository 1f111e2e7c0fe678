// SPDX-License-Identifier: Apache-2.0
import { Problem } from '@/api/problem';
import type { Detail, Terms } from './consumers';

type Amount = number | string;

/** The terms as they stand in the form; an empty quota is one without a limit. */
export type Typed = {
  fee: Amount;
  charges: { included: Amount; unit_price: Amount }[];
  quotas: { amount: Amount }[];
  rate: Amount;
};

/** What holds now, to be changed. */
export function asTyped({ consumer, terms }: Detail): Typed {
  return {
    fee: Number(consumer.base_fee.amount_minor) / minorUnits(consumer.base_fee.currency),
    charges: terms.charges.map(({ included, unit_price }) => ({ included, unit_price })),
    quotas: terms.quotas.map(({ amount }) => ({ amount: amount ?? '' })),
    rate: terms.rate_limit?.amount ?? '',
  };
}

/** What was typed, as the API takes it: whole charges and quotas, the rest as it was. */
export function agreed({ consumer, terms }: Detail, typed: Typed): Terms {
  const { currency } = consumer.base_fee;
  const amount_minor = Math.round(Number(typed.fee) * minorUnits(currency));
  return {
    base_fee: { amount_minor, currency },
    charges: terms.charges.map((charge, at) => ({
      ...charge,
      included: decimal(typed.charges[at]?.included),
      ...(charge.model === 'unit' && { unit_price: decimal(typed.charges[at]?.unit_price) }),
    })),
    quotas: terms.quotas.map((quota, at) => {
      const amount = typed.quotas[at]?.amount;
      return { ...quota, amount: amount === '' || amount === undefined ? null : Number(amount) };
    }),
    rate_limit:
      terms.rate_limit && typed.rate !== ''
        ? { ...terms.rate_limit, amount: Number(typed.rate) }
        : null,
  };
}

/** The same refusal with its fields named as the form names them: `terms.charges.0.included`. */
export function pathOf(error: unknown): unknown {
  if (!(error instanceof Problem)) return error;
  const fields = error.fields.map((one) => ({ ...one, field: renamed(one.field) }));
  return Object.assign(error, { fields });
}

function renamed(field: string): string {
  const bare = field.replace(/^terms\./, '').replace(/\[(\d+)\]/g, '.$1');
  if (bare.startsWith('base_fee')) return 'fee';
  if (bare.startsWith('rate_limit')) return 'rate';
  return bare.replace(/^prices\.\d+\./, '');
}

/** A typed amount as a decimal string: 1e-7 is 0.0000001, nothing is 0. */
function decimal(amount: Amount | undefined): string {
  if (typeof amount === 'string') return amount || '0';
  return (amount ?? 0).toFixed(12).replace(/\.?0+$/, '');
}

function minorUnits(currency: string): number {
  const format = new Intl.NumberFormat('en', { style: 'currency', currency });
  return 10 ** (format.resolvedOptions().maximumFractionDigits ?? 2);
}
