// SPDX-License-Identifier: Apache-2.0
import { texts } from '@/ui/i18n';

export const invoiceTexts = texts(
  {
    title: 'Invoices',
    hint: 'What is coming, what you paid ahead, and one invoice per subscription and period.',
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
    all: 'All invoices',
    invoice: 'Invoice',
    lines: 'Lines',
    description: 'Description',
    quantity: 'Quantity',
    price: 'Unit price',
    amount: 'Amount',
  },
  {
    title: 'Facturen',
    hint: 'Wat eraan komt, wat u vooruit betaalde, en één factuur per abonnement en periode.',
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
    all: 'Alle facturen',
    invoice: 'Factuur',
    lines: 'Regels',
    description: 'Omschrijving',
    quantity: 'Aantal',
    price: 'Prijs per stuk',
    amount: 'Bedrag',
  },
);

export const invoiceStatusTexts = texts(
  {
    Draft: 'Draft',
    Sent: 'Open',
    Paid: 'Paid',
    Overdue: 'Overdue',
    Cancelled: 'Cancelled',
    WrittenOff: 'Written off',
  },
  {
    Draft: 'Concept',
    Sent: 'Open',
    Paid: 'Betaald',
    Overdue: 'Te laat',
    Cancelled: 'Vervallen',
    WrittenOff: 'Afgeschreven',
  },
);

export const sumTexts = texts(
  {
    subtotal: 'Subtotal',
    tax: 'VAT',
    total: 'Total',
    credited: 'Paid from credit',
    wallet: 'Paid from your balance',
    due: 'To pay',
    paid: 'Paid',
  },
  {
    subtotal: 'Subtotaal',
    tax: 'Btw',
    total: 'Totaal',
    credited: 'Betaald uit tegoed',
    wallet: 'Betaald uit uw saldo',
    due: 'Te betalen',
    paid: 'Betaald',
  },
);

export const factTexts = texts(
  {
    from: 'From',
    to: 'To',
    paid: 'Paid on',
    reference: 'Payment reference',
    account: 'To account (IBAN)',
    taxOf: (rate: string) => `VAT ${rate} %`,
    taxOver: (tax: string, base: string) => `${tax} over ${base}`,
  },
  {
    from: 'Van',
    to: 'Aan',
    paid: 'Betaald op',
    reference: 'Betalingskenmerk',
    account: 'Op rekening (IBAN)',
    taxOf: (rate: string) => `Btw ${rate} %`,
    taxOver: (tax: string, base: string) => `${tax} over ${base}`,
  },
);

export const creditTexts = texts(
  {
    title: 'Credit notes',
    reason: 'Reason',
    becomes: 'What happens',
    kept: 'Comes off your next invoices',
    refunded: 'You get it back',
    lowered: 'You need not pay it',
  },
  {
    title: "Creditnota's",
    reason: 'Reden',
    becomes: 'Wat ermee gebeurt',
    kept: 'Gaat af van uw volgende facturen',
    refunded: 'U krijgt het terug',
    lowered: 'U hoeft het niet te betalen',
  },
);

export const upcomingTexts = texts(
  {
    title: 'Your next invoice',
    on: (day: string) => `If the period ended now. It is made on ${day}.`,
    forecast: 'At this pace, at the end',
  },
  {
    title: 'Uw volgende factuur',
    on: (day: string) => `Als de periode nu eindigde. Hij wordt gemaakt op ${day}.`,
    forecast: 'In dit tempo, aan het einde',
  },
);

export const walletTexts = texts(
  {
    title: 'Balance and coupons',
    hint: 'Invoices are paid from credit first, then from your balance.',
    balance: 'Balance',
    credit: 'Credit from credit notes',
    topUp: 'Top up',
    amount: (currency: string) => `Amount in ${currency}`,
    transfer: (amount: string, reference: string) =>
      `Transfer ${amount}, quoting ${reference}. It counts once it has come in.`,
    code: 'Coupon code',
    redeem: 'Redeem',
    coupon: (code: string, name: string) => `Coupon ${code}, ${name}`,
    off: (off: string) => `${off} off every invoice.`,
    offTimes: (off: string, times: number) =>
      times === 1 ? `${off} off one invoice.` : `${off} off, on ${times} invoices.`,
  },
  {
    title: 'Saldo en kortingscodes',
    hint: 'Facturen worden eerst uit tegoed betaald, dan uit uw saldo.',
    balance: 'Saldo',
    credit: "Tegoed uit creditnota's",
    topUp: 'Opwaarderen',
    amount: (currency: string) => `Bedrag in ${currency}`,
    transfer: (amount: string, reference: string) =>
      `Maak ${amount} over onder vermelding van ${reference}. Het telt zodra het binnen is.`,
    code: 'Kortingscode',
    redeem: 'Inwisselen',
    coupon: (code: string, name: string) => `Kortingscode ${code}, ${name}`,
    off: (off: string) => `${off} van elke factuur af.`,
    offTimes: (off: string, times: number) =>
      times === 1 ? `${off} van één factuur af.` : `${off} korting, op ${times} facturen.`,
  },
);
