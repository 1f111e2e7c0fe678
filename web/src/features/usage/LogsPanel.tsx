// SPDX-License-Identifier: Apache-2.0
import { Button, Card, Group, Stack, Text } from '@mantine/core';
import { useDisclosure } from '@mantine/hooks';
import { Link } from '@tanstack/react-router';
import { useState } from 'react';
import { useMay } from '@/api/session';
import { EmptyState } from '@/ui/EmptyState';
import { useTexts } from '@/ui/i18n';
import { DownloadIcon, ListIcon } from '@/ui/icons';
import { RowsLoading } from '@/ui/Loading';
import { PageHead } from '@/ui/PageHead';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { wordTexts } from '@/ui/words';
import { CallDrawer } from './CallDrawer';
import { ExportDialog } from './ExportDialog';
import { LogFilters } from './LogFilters';
import { LogTable } from './LogTable';
import { logTexts } from './logTexts';
import { type Call, type LogSearch, useLogs } from './usage';

type Props = { search: LogSearch; onSearch: (search: LogSearch) => void };

/** Every call, found by what is known of it; one call with what it cost. */
export function LogsPanel({ search, onSearch }: Props) {
  const own = useTexts(logTexts);
  const words = useTexts(wordTexts);
  const logs = useLogs(search);
  const [shown, setShown] = useState<Call | null>(null);
  const [drawer, open] = useDisclosure();
  const [exporting, dialog] = useDisclosure();
  const calls = logs.data?.pages.flatMap((page) => page.data) ?? [];
  const show = (call: Call) => {
    setShown(call);
    open.open();
  };
  return (
    <Stack gap="lg">
      <PageHead
        title={own.title}
        hint={own.hint}
        action={
          <Button variant="light" leftSection={<DownloadIcon size={18} />} onClick={dialog.open}>
            {own.export}
          </Button>
        }
      />
      <LogFilters search={search} onSearch={onSearch} />
      <ProblemAlert error={logs.error} retry={() => logs.refetch()} />
      <Card padding={0}>
        {logs.isPending && <RowsLoading rows={6} />}
        {calls.length > 0 && <LogTable calls={calls} onShow={show} />}
        {logs.isSuccess && calls.length === 0 && !logs.hasNextPage && (
          <NothingFound filtered={Object.keys(search).length > 0} />
        )}
        {logs.isSuccess && calls.length === 0 && logs.hasNextPage && (
          <Text size="sm" c="dimmed" p="lg">
            {own.searching}
          </Text>
        )}
      </Card>
      {logs.hasNextPage && (
        <Group>
          <Button
            variant="default"
            loading={logs.isFetchingNextPage}
            onClick={() => logs.fetchNextPage()}
          >
            {calls.length > 0 ? words.more : own.goOn}
          </Button>
        </Group>
      )}
      <CallDrawer call={shown} opened={drawer} onClose={open.close} />
      <ExportDialog
        search={search}
        newest={calls[0]?.at}
        opened={exporting}
        onClose={dialog.close}
      />
    </Stack>
  );
}

function NothingFound({ filtered }: { filtered: boolean }) {
  const own = useTexts(logTexts);
  const mayKeys = useMay('manage_api_keys');
  return (
    <EmptyState
      icon={<ListIcon size={28} />}
      title={filtered ? own.none : own.empty}
      hint={filtered ? own.noneHint : own.emptyHint}
      action={
        !filtered &&
        mayKeys && (
          <Button component={Link} to="/keys" variant="light">
            {own.makeKey}
          </Button>
        )
      }
    />
  );
}
