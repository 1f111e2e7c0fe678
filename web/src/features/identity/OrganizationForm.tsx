// SPDX-License-Identifier: Apache-2.0
import { Button, NativeSelect, SimpleGrid, Stack, TextInput } from '@mantine/core';
import { isNotEmpty, useForm } from '@mantine/form';
import { api, type Schemas } from '@/api/client';
import { unwrap } from '@/api/problem';
import { useSession } from '@/api/session';
import { countryName } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { useSubmit } from '@/ui/useSubmit';
import { wordTexts } from '@/ui/words';
import { fieldTexts, organizationTexts } from './texts';

// The European Union and its nearest neighbours; the API takes any ISO 3166 code.
const COUNTRIES = [
  ...['AT', 'BE', 'BG', 'CH', 'CY', 'CZ', 'DE', 'DK', 'EE', 'ES', 'FI', 'FR', 'GB', 'GR', 'HR'],
  ...['HU', 'IE', 'IS', 'IT', 'LI', 'LT', 'LU', 'LV', 'MT', 'NL', 'NO', 'PL', 'PT', 'RO', 'SE'],
  ...['SI', 'SK'],
];

/** The details that invoices need; `onDone` when the organization is there. */
export function OrganizationForm({ onDone }: { onDone: () => void | Promise<void> }) {
  const own = useTexts(organizationTexts);
  const words = useTexts(wordTexts);
  const { locale } = useLocale();
  const user = useSession()?.user;
  const filled = isNotEmpty(words.required);
  const form = useForm({
    mode: 'uncontrolled',
    initialValues: {
      name: user?.company ?? '',
      legal_name: user?.company ?? '',
      country: 'NL',
      company_number: '',
      vat_number: '',
      billing_email: user?.email ?? '',
      address: { street: '', postal_code: '', city: '' },
    },
    validate: {
      name: filled,
      legal_name: filled,
      billing_email: filled,
      address: { street: filled, postal_code: filled, city: filled },
    },
  });
  const send = async (values: ReturnType<typeof form.getValues>) => {
    const body: Schemas['NewOrganizationBody'] = {
      ...values,
      company_number: values.company_number || null,
      vat_number: values.vat_number || null,
      time_zone: Intl.DateTimeFormat().resolvedOptions().timeZone,
      locale,
      currency: 'EUR',
    };
    await unwrap(api.POST('/api/public/create-organization', { body }));
    await onDone();
  };
  const { onSubmit, pending, failure } = useSubmit(form, send, useTexts(fieldTexts));
  const field = (name: string) => ({ key: form.key(name), ...form.getInputProps(name) });
  const countries = COUNTRIES.map((value) => ({ value, label: countryName(value, locale) })).sort(
    (one, other) => one.label.localeCompare(other.label, locale),
  );
  return (
    <form onSubmit={onSubmit} noValidate>
      <Stack>
        <ProblemAlert error={failure} />
        <SimpleGrid cols={{ base: 1, sm: 2 }}>
          <TextInput label={own.name} autoComplete="organization" required {...field('name')} />
          <TextInput
            label={own.legalName}
            description={own.legalNameHint}
            required
            {...field('legal_name')}
          />
          <NativeSelect
            label={own.country}
            size="md"
            autoComplete="country"
            data={countries}
            {...field('country')}
          />
          <TextInput
            label={own.billingEmail}
            type="email"
            autoComplete="email"
            required
            {...field('billing_email')}
          />
          <TextInput
            label={own.companyNumber}
            description={own.companyNumberHint}
            {...field('company_number')}
          />
          <TextInput
            label={own.vatNumber}
            description={own.vatNumberHint}
            autoCapitalize="characters"
            {...field('vat_number')}
          />
        </SimpleGrid>
        <TextInput
          label={own.street}
          autoComplete="street-address"
          required
          {...field('address.street')}
        />
        <SimpleGrid cols={{ base: 1, xs: 2 }}>
          <TextInput
            label={own.postalCode}
            autoComplete="postal-code"
            required
            {...field('address.postal_code')}
          />
          <TextInput
            label={own.city}
            autoComplete="address-level2"
            required
            {...field('address.city')}
          />
        </SimpleGrid>
        <Button type="submit" size="md" loading={pending} mt="xs">
          {words.next}
        </Button>
      </Stack>
    </form>
  );
}
