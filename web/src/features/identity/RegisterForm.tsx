// SPDX-License-Identifier: Apache-2.0
import { Anchor, Button, PasswordInput, SimpleGrid, Stack, Text, TextInput } from '@mantine/core';
import { isNotEmpty, useForm } from '@mantine/form';
import { Link } from '@tanstack/react-router';
import { useState } from 'react';
import { api } from '@/api/client';
import { unwrap } from '@/api/problem';
import { useLocale, useTexts } from '@/ui/i18n';
import { PageHead } from '@/ui/PageHead';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { useSubmit } from '@/ui/useSubmit';
import { wordTexts } from '@/ui/words';
import { CheckMail } from './CheckMail';
import { accountTexts, fieldTexts } from './texts';

/** A new user; the answer is the same whether or not the address has an account. */
export function RegisterForm() {
  const own = useTexts(accountTexts);
  const words = useTexts(wordTexts);
  const { locale } = useLocale();
  const [sentTo, setSentTo] = useState<string | null>(null);
  const filled = isNotEmpty(words.required);
  const form = useForm({
    mode: 'uncontrolled',
    initialValues: { first_name: '', last_name: '', company: '', email: '', password: '' },
    validate: { first_name: filled, last_name: filled, email: filled, password: filled },
  });
  const send = async (values: ReturnType<typeof form.getValues>) => {
    const body = { ...values, locale };
    await unwrap(api.POST('/api/public/register', { body }));
    setSentTo(values.email);
  };
  const { onSubmit, pending, failure } = useSubmit(form, send, useTexts(fieldTexts));
  const field = (name: string) => ({ key: form.key(name), ...form.getInputProps(name) });

  if (sentTo) return <CheckMail email={sentTo} />;
  return (
    <Stack gap="lg">
      <PageHead title={own.registerTitle} hint={own.registerHint} />
      <ProblemAlert error={failure} />
      <form onSubmit={onSubmit} noValidate>
        <Stack>
          <SimpleGrid cols={{ base: 1, xs: 2 }}>
            <TextInput
              label={own.firstName}
              autoComplete="given-name"
              required
              {...field('first_name')}
            />
            <TextInput
              label={own.lastName}
              autoComplete="family-name"
              required
              {...field('last_name')}
            />
          </SimpleGrid>
          <TextInput
            label={own.email}
            type="email"
            autoComplete="username"
            required
            {...field('email')}
          />
          <TextInput
            label={own.company}
            description={own.companyHint}
            autoComplete="organization"
            {...field('company')}
          />
          <PasswordInput
            label={own.password}
            description={own.passwordHint}
            autoComplete="new-password"
            required
            visibilityToggleButtonProps={{ 'aria-label': words.showPassword, tabIndex: 0 }}
            {...field('password')}
          />
          <Button type="submit" size="md" loading={pending} fullWidth mt="xs">
            {own.register}
          </Button>
        </Stack>
      </form>
      <Text size="sm" ta="center">
        {own.haveAccount}{' '}
        <Anchor component={Link} to="/sign-in" size="sm" fw={600}>
          {own.signIn}
        </Anchor>
      </Text>
    </Stack>
  );
}
