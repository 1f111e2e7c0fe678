// SPDX-License-Identifier: Apache-2.0
import { Button, PasswordInput, Stack } from '@mantine/core';
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
import { accountTexts, fieldTexts } from './texts';

/** A new password, by the link of the mail. */
export function ResetPasswordForm({ token }: { token: string }) {
  const own = useTexts(accountTexts);
  const words = useTexts(wordTexts);
  const [done, setDone] = useState(false);
  const form = useForm({
    mode: 'uncontrolled',
    initialValues: { password: '' },
    validate: { password: isNotEmpty(words.required) },
  });
  const send = async ({ password }: { password: string }) => {
    await unwrap(api.POST('/api/user/auth/reset-password', { body: { token, password } }));
    setDone(true);
  };
  const { onSubmit, pending, failure } = useSubmit(form, send, useTexts(fieldTexts));

  if (done) {
    return (
      <Stack gap="lg">
        <PageHead title={own.resetDone} hint={own.resetDoneHint} />
        <Button component={Link} to="/sign-in" size="md">
          {own.signIn}
        </Button>
      </Stack>
    );
  }
  return (
    <Stack gap="lg">
      <PageHead title={own.resetTitle} />
      <ProblemAlert error={failure} />
      <form onSubmit={onSubmit} noValidate>
        <Stack>
          <PasswordInput
            label={own.newPassword}
            description={own.passwordHint}
            autoComplete="new-password"
            required
            visibilityToggleButtonProps={{ 'aria-label': words.showPassword, tabIndex: 0 }}
            key={form.key('password')}
            {...form.getInputProps('password')}
          />
          <Button type="submit" size="md" loading={pending} fullWidth>
            {own.savePassword}
          </Button>
        </Stack>
      </form>
    </Stack>
  );
}
