// SPDX-License-Identifier: Apache-2.0
import { Anchor, Stack, Text } from '@mantine/core';
import { Link } from '@tanstack/react-router';
import { useTexts } from '@/ui/i18n';
import { PageHead } from '@/ui/PageHead';
import { accountTexts } from './texts';

/** After a form that sends a mail; says nothing about whether the address has an account. */
export function CheckMail({ email }: { email: string }) {
  const own = useTexts(accountTexts);
  return (
    <Stack gap="lg">
      <PageHead title={own.checkMail} hint={own.checkMailHint(email)} />
      <Text size="sm" c="dimmed">
        {own.noMail}
      </Text>
      <Anchor component={Link} to="/sign-in" size="sm" fw={600}>
        {own.backToSignIn}
      </Anchor>
    </Stack>
  );
}
