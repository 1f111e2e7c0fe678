// SPDX-License-Identifier: Apache-2.0
import { texts } from './i18n';

/** A subscription's states in words, for both sides of the contract. */
export const stateTexts = texts(
  {
    Trial: 'Trial',
    Active: 'Active',
    PastDue: 'Payment overdue',
    Suspended: 'Suspended',
    Cancelled: 'Cancelled',
    Paused: 'Paused',
    Expired: 'Expired',
  },
  {
    Trial: 'Proefperiode',
    Active: 'Actief',
    PastDue: 'Betaling te laat',
    Suspended: 'Opgeschort',
    Cancelled: 'Opgezegd',
    Paused: 'Gepauzeerd',
    Expired: 'Afgelopen',
  },
);
