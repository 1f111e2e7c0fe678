// SPDX-License-Identifier: Apache-2.0
import { Button, Stack } from '@mantine/core';
import { useMutation } from '@tanstack/react-query';
import { api } from '@/api/client';
import { unwrap } from '@/api/problem';
import { refresh, useSession } from '@/api/session';
import { useTexts } from '@/ui/i18n';
import { PageHead } from '@/ui/PageHead';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { accountTexts, fieldTexts } from './texts';

/** Joins the organization of an invitation's link, after a word of consent. */
export function AcceptInvitation({ token, onDone }: { token: string; onDone: () => void }) {
  const own = useTexts(accountTexts);
  const refusals: Record<string, string> = useTexts(fieldTexts);
  const email = useSession()?.user.email ?? '';
  const join = useMutation({
    mutationFn: async () => {
      await unwrap(api.POST('/api/public/invitations/accept', { body: { token } }));
      await refresh();
    },
    onSuccess: onDone,
  });
  const [refused] = join.error?.fields ?? [];
  const said = refused && (refusals[`${refused.field}.${refused.code}`] ?? refused.message);
  return (
    <Stack gap="lg">
      <PageHead title={own.invitationTitle} hint={own.invitationHint(email)} />
      <ProblemAlert error={join.error} message={said} />
      <Button size="md" loading={join.isPending} onClick={() => join.mutate()}>
        {own.join}
      </Button>
    </Stack>
  );
}
