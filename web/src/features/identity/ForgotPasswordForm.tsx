// SPDX-License-Identifier: Apache-2.0
import { Anchor, Button, Stack, TextInput } from '@mantine/core';
import { isNotEmpty, useForm } from '@mantine/form';
import { Link } from '@tanstack/react-router';
import { useState } from 'react';
import { api } from '@/api/client';
import { unwrap } from '@/api/problem';
import { useTexts } from '@/ui/i18n';
import { PageHead } from '@/ui/PageHead';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { useSubmit } from '@/ui/useSubmit';
import { wordTexts } from '@/ui/words';
import { CheckMail } from './CheckMail';
import { accountTexts, fieldTexts } from './texts';

/** Asks for a reset link. */
export function ForgotPasswordForm() {
  const own = useTexts(accountTexts);
  const words = useTexts(wordTexts);
  const [sentTo, setSentTo] = useState<string | null>(null);
  const form = useForm({
    mode: 'uncontrolled',
    initialValues: { email: '' },
    validate: { email: isNotEmpty(words.required) },
  });
  const send = async (body: { email: string }) => {
    await unwrap(api.POST('/api/user/auth/forgot-password', { body }));
    setSentTo(body.email);
  };
  const { onSubmit, pending, failure } = useSubmit(form, send, useTexts(fieldTexts));

  if (sentTo) return <CheckMail email={sentTo} />;
  return (
    <Stack gap="lg">
      <PageHead title={own.forgotTitle} hint={own.forgotHint} />
      <ProblemAlert error={failure} />
      <form onSubmit={onSubmit} noValidate>
        <Stack>
          <TextInput
            label={own.email}
            type="email"
            autoComplete="username"
            required
            key={form.key('email')}
            {...form.getInputProps('email')}
          />
          <Button type="submit" size="md" loading={pending} fullWidth>
            {own.sendLink}
          </Button>
        </Stack>
      </form>
      <Anchor component={Link} to="/sign-in" size="sm" fw={600}>
        {own.backToSignIn}
      </Anchor>
    </Stack>
  );
}
