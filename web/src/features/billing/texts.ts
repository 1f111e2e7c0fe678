// SPDX-License-Identifier: Apache-2.0
import { texts } from '@/ui/i18n';

export const invoiceTexts = texts(
  {
    title: 'Invoices',
    hint: 'One invoice per subscription and period, as a PDF to download.',
    none: 'No invoices yet',
    noneHint: 'The first one is made at the end of your first period. Nothing to do until then.',
    number: 'Number',
    issued: 'Date',
    due: 'Due',
    status: 'Status',
    total: 'Total',
    download: 'PDF',
    downloadNumber: (number: string) => `Download ${number} as PDF`,
    actions: 'Actions',
    draft: 'Draft',
  },
  {
    title: 'Facturen',
    hint: 'Eén factuur per abonnement en periode, als pdf te downloaden.',
    none: 'Nog geen facturen',
    noneHint: 'De eerste komt aan het einde van uw eerste periode. Tot dan hoeft u niets te doen.',
    number: 'Nummer',
    issued: 'Datum',
    due: 'Vervalt',
    status: 'Status',
    total: 'Totaal',
    download: 'Pdf',
    downloadNumber: (number: string) => `${number} als pdf downloaden`,
    actions: 'Acties',
    draft: 'Concept',
  },
);

export const invoiceStatusTexts = texts(
  { Draft: 'Draft', Sent: 'Open', Paid: 'Paid', Overdue: 'Overdue', Cancelled: 'Cancelled' },
  { Draft: 'Concept', Sent: 'Open', Paid: 'Betaald', Overdue: 'Te laat', Cancelled: 'Vervallen' },
);
