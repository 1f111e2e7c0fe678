// SPDX-License-Identifier: Apache-2.0
import { api } from '@/api/client';
import { unwrap } from '@/api/problem';
import { ConfirmDialog } from '@/ui/ConfirmDialog';
import { useTexts } from '@/ui/i18n';
import { type ApiKey, useKeysChanged } from './keys';
import { keyTexts } from './texts';

type Props = {
  opened: boolean;
  target: ApiKey | null;
  onClose: () => void;
  onRevoked: (key: ApiKey) => void;
};

/** Asks, then revokes for good. */
export function RevokeKeyDialog({ opened, target, onClose, onRevoked }: Props) {
  const own = useTexts(keyTexts);
  const keysChanged = useKeysChanged();
  const revoke = async () => {
    if (!target) return;
    const params = { path: { key_id: target.id } };
    await unwrap(api.DELETE('/api/developer/api-keys/{key_id}', { params }));
    await keysChanged();
    onRevoked(target);
  };
  return (
    <ConfirmDialog
      opened={opened}
      title={own.revokeTitle(target?.name ?? '')}
      hint={own.revokeHint}
      action={own.revokeAction}
      onConfirm={revoke}
      onClose={onClose}
    />
  );
}
