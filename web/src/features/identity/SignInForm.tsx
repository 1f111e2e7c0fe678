// SPDX-License-Identifier: Apache-2.0
import { Anchor, Button, Group, PasswordInput, Stack, Text, TextInput } from '@mantine/core';
import { isNotEmpty, useForm } from '@mantine/form';
import { Link } from '@tanstack/react-router';
import { api } from '@/api/client';
import { unwrap } from '@/api/problem';
import { openSession } from '@/api/session';
import { useTexts } from '@/ui/i18n';
import { PageHead } from '@/ui/PageHead';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { useSubmit } from '@/ui/useSubmit';
import { wordTexts } from '@/ui/words';
import { accountTexts } from './texts';

/** E-mail address and password; `onDone` when the session is open. */
export function SignInForm({ onDone }: { onDone: () => void }) {
  const own = useTexts(accountTexts);
  const words = useTexts(wordTexts);
  const form = useForm({
    mode: 'uncontrolled',
    initialValues: { email: '', password: '' },
    validate: { email: isNotEmpty(words.required), password: isNotEmpty(words.required) },
  });
  const { onSubmit, pending, failure } = useSubmit(form, async (body) => {
    openSession(await unwrap(api.POST('/api/user/auth/login', { body })));
    onDone();
  });
  return (
    <Stack gap="lg">
      <PageHead title={own.signInTitle} hint={own.signInHint} />
      <ProblemAlert
        error={failure}
        message={failure?.code === 'unauthenticated' ? own.wrong : undefined}
      />
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
          <PasswordInput
            label={own.password}
            autoComplete="current-password"
            required
            visibilityToggleButtonProps={{ 'aria-label': words.showPassword, tabIndex: 0 }}
            key={form.key('password')}
            {...form.getInputProps('password')}
          />
          <Group justify="flex-end">
            <Anchor component={Link} to="/forgot-password" size="sm">
              {own.forgot}
            </Anchor>
          </Group>
          <Button type="submit" size="md" loading={pending} fullWidth>
            {own.signIn}
          </Button>
        </Stack>
      </form>
      <Text size="sm" ta="center">
        {own.noAccount}{' '}
        <Anchor component={Link} to="/register" size="sm" fw={600}>
          {own.register}
        </Anchor>
      </Text>
    </Stack>
  );
}
