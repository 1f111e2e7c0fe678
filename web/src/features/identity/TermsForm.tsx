// SPDX-License-Identifier: Apache-2.0
import { Button, Checkbox, ScrollArea, Stack, Text } from '@mantine/core';
import { useForm } from '@mantine/form';
import { useQuery } from '@tanstack/react-query';
import { api } from '@/api/client';
import { unwrap } from '@/api/problem';
import { useTexts } from '@/ui/i18n';
import { RowsLoading } from '@/ui/Loading';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { useSubmit } from '@/ui/useSubmit';
import classes from './identity.module.css';
import { fieldTexts, organizationTexts } from './texts';

type Props = { onDone: () => Promise<void>; onKey: (secret: string) => void };

/**
 * Shows the terms in force and accepts exactly these. The organization is active then, and a plan
 * chosen before starts: `onKey` gets the secret of its first key, `onDone` comes after.
 */
export function TermsForm({ onDone, onKey }: Props) {
  const own = useTexts(organizationTexts);
  const terms = useQuery({
    queryKey: ['terms'],
    queryFn: () => unwrap(api.GET('/api/public/terms')),
  });
  const form = useForm({
    mode: 'uncontrolled',
    initialValues: { accepted: false },
    validate: { accepted: (accepted) => (accepted ? null : own.acceptFirst) },
  });
  const send = async () => {
    if (!terms.data) return;
    const body = { version: terms.data.version };
    const accepted = await unwrap(api.POST('/api/public/accept-terms', { body }));
    if (accepted.api_key?.secret) onKey(accepted.api_key.secret);
    await onDone();
  };
  const { onSubmit, pending, failure } = useSubmit(form, send, useTexts(fieldTexts));

  if (terms.isPending) return <RowsLoading rows={6} />;
  if (terms.isError) return <ProblemAlert error={terms.error} retry={() => terms.refetch()} />;
  return (
    <form onSubmit={onSubmit} noValidate>
      <Stack>
        <ProblemAlert error={failure} />
        <ScrollArea.Autosize
          mah={320}
          className={classes.terms ?? ''}
          viewportProps={{ tabIndex: 0, role: 'region', 'aria-label': own.termsTitle }}
        >
          <Text size="xs" c="dimmed" mb="xs">
            {own.termsVersion(terms.data.version)}
          </Text>
          <Text size="sm" className={classes.termsText ?? ''}>
            {terms.data.body}
          </Text>
        </ScrollArea.Autosize>
        <Checkbox
          label={own.accept}
          size="md"
          key={form.key('accepted')}
          {...form.getInputProps('accepted', { type: 'checkbox' })}
        />
        <Button type="submit" size="md" loading={pending}>
          {own.activate}
        </Button>
      </Stack>
    </form>
  );
}
