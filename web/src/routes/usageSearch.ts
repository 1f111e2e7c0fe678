// SPDX-License-Identifier: Apache-2.0
import type { LogSearch, UsageSearch } from '@/features/usage/usage';

const DAYS_MAX = 400;
const ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const DAY = /^\d{4}-\d\d-\d\d$/;

/** How many days and which environment, of an address that anyone may have typed. */
export function rangeSearch(search: Record<string, unknown>): UsageSearch {
  const days = Number(search.days);
  return {
    days: Number.isInteger(days) && days >= 1 && days <= DAYS_MAX ? days : 30,
    environment: search.environment === 'Test' ? 'Test' : 'Live',
  };
}

const FIELDS: Record<keyof LogSearch, RegExp> = {
  from: DAY,
  to: DAY,
  key_id: ID,
  method: /^[A-Z]{1,16}$/,
  status: /^[1-9](\d\d|xx)$/,
  request_id: /^.{1,200}$/,
  environment: /^(Live|Test)$/,
  kind: /^(billable|unbilled|refused)$/,
};

/** The filters of the log; what is not one is left out. */
export function logSearch(search: Record<string, unknown>): LogSearch {
  const given = Object.entries(FIELDS).filter(([name, form]) => {
    const value = search[name];
    return typeof value === 'string' && form.test(value);
  });
  return Object.fromEntries(given.map(([name]) => [name, search[name]])) as LogSearch;
}
