// SPDX-License-Identifier: Apache-2.0
import { Button, Card, Stack, VisuallyHidden } from '@mantine/core';
import { useDisclosure } from '@mantine/hooks';
import { useState } from 'react';
import { EmptyState } from '@/ui/EmptyState';
import { useTexts } from '@/ui/i18n';
import { KeyIcon } from '@/ui/icons';
import { RowsLoading } from '@/ui/Loading';
import { PageHead } from '@/ui/PageHead';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { wordTexts } from '@/ui/words';
import { CreateKeyDialog } from './CreateKeyDialog';
import { KeysTable } from './KeysTable';
import { type ApiKey, useKeys } from './keys';
import { RevokeKeyDialog } from './RevokeKeyDialog';
import { keyTexts } from './texts';

/** The organization's keys: list, make, revoke. */
export function KeysPanel() {
  const own = useTexts(keyTexts);
  const words = useTexts(wordTexts);
  const keys = useKeys();
  const [creating, create] = useDisclosure();
  const [revoking, revoke] = useDisclosure();
  const [target, setTarget] = useState<ApiKey | null>(null);
  const [said, setSaid] = useState('');
  const rows = keys.data?.pages.flatMap((page) => page.data) ?? [];
  const askToRevoke = (key: ApiKey) => {
    setTarget(key);
    revoke.open();
  };
  const createButton = <Button onClick={create.open}>{own.create}</Button>;
  return (
    <Stack gap="lg">
      <PageHead title={own.title} hint={own.hint} action={rows.length > 0 && createButton} />
      <VisuallyHidden aria-live="polite">{said}</VisuallyHidden>
      <ProblemAlert error={keys.error} retry={() => keys.refetch()} />
      <Card padding={0}>
        {keys.isPending && <RowsLoading />}
        {keys.isSuccess && rows.length === 0 && (
          <EmptyState
            icon={<KeyIcon size={28} />}
            title={own.none}
            hint={own.noneHint}
            action={createButton}
          />
        )}
        {rows.length > 0 && <KeysTable keys={rows} onRevoke={askToRevoke} />}
      </Card>
      {keys.hasNextPage && (
        <Button
          variant="default"
          loading={keys.isFetchingNextPage}
          onClick={() => keys.fetchNextPage()}
        >
          {words.more}
        </Button>
      )}
      <CreateKeyDialog opened={creating} onClose={create.close} />
      <RevokeKeyDialog
        opened={revoking}
        target={target}
        onClose={revoke.close}
        onRevoked={(key) => setSaid(own.revoked(key.name))}
      />
    </Stack>
  );
}
