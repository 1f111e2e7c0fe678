// SPDX-License-Identifier: Apache-2.0
import { Button, Loader, Stack } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import { useEffect } from 'react';
import { api } from '@/api/client';
import { unwrap } from '@/api/problem';
import { openSession } from '@/api/session';
import { useTexts } from '@/ui/i18n';
import { PageHead } from '@/ui/PageHead';
import { accountTexts } from './texts';

/** Uses the token of the mail's link, once; a good one opens a session. */
export function VerifyEmail({ token, onDone }: { token: string; onDone: () => void }) {
  const own = useTexts(accountTexts);
  const { isSuccess, isError } = useQuery({
    queryKey: ['verify-email', token],
    queryFn: async () => {
      openSession(await unwrap(api.POST('/api/public/verify-email', { body: { token } })));
      return true;
    },
    retry: false,
    staleTime: Number.POSITIVE_INFINITY,
  });
  useEffect(() => {
    if (isSuccess) onDone();
  }, [isSuccess, onDone]);
  if (isError) {
    return (
      <Stack gap="lg" role="alert">
        <PageHead title={own.verifyFailed} hint={own.verifyFailedHint} />
        <Button component={Link} to="/sign-in" size="md">
          {own.signIn}
        </Button>
      </Stack>
    );
  }
  return (
    <Stack gap="lg" role="status">
      <PageHead title={own.verifying} />
      <Loader />
    </Stack>
  );
}
