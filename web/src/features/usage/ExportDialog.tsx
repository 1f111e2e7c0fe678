// SPDX-License-Identifier: Apache-2.0
import {
  Button,
  Group,
  Modal,
  NativeSelect,
  Progress,
  Stack,
  Text,
  TextInput,
} from '@mantine/core';
import { useMutation } from '@tanstack/react-query';
import { type FormEvent, useState } from 'react';
import { formatBytes } from '@/ui/duration';
import { formatNumber, formatPeriod } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { DownloadIcon } from '@/ui/icons';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { wordTexts } from '@/ui/words';
import { dayAfter, dayOf, startOf } from '@/ui/zone';
import { exportTexts } from './logTexts';
import {
  download,
  type Export,
  type Format,
  isUnderWay,
  type LogSearch,
  useExports,
  useStartExport,
} from './usage';

const DAYS_MAX = 400;
const FORMATS: Format[] = ['csv', 'jsonl', 'parquet'];

type Props = {
  search: LogSearch;
  newest: string | undefined;
  opened: boolean;
  onClose: () => void;
};

/**
 * Asks for a file of the calls that match, shows how far it is, and fetches it. Offered are the
 * thirty days up to the newest call.
 */
export function ExportDialog({ search, newest, opened, onClose }: Props) {
  const own = useTexts(exportTexts);
  const words = useTexts(wordTexts);
  const [from, setFrom] = useState<string | null>(null);
  const [to, setTo] = useState<string | null>(null);
  const [format, setFormat] = useState<Format>('csv');
  const start = useStartExport();
  const last = to ?? search.to ?? dayOf(newest ?? new Date().toISOString());
  const first = from ?? search.from ?? dayAfter(last, -30);
  const wrong = !first || !last || first > last || dayAfter(first, DAYS_MAX) <= last;
  const onSubmit = (event: FormEvent) => {
    event.preventDefault();
    const range = { from: startOf(first), to: startOf(dayAfter(last)) };
    if (!wrong) start.mutate({ format, search, range });
  };
  return (
    <Modal
      opened={opened}
      onClose={onClose}
      title={own.title}
      closeButtonProps={{ 'aria-label': words.close }}
      radius="lg"
      size="lg"
      centered
    >
      <Stack>
        <Text size="sm" c="dimmed">
          {own.hint}
        </Text>
        <form onSubmit={onSubmit}>
          <Stack gap="sm">
            <Group grow align="flex-start">
              <TextInput
                type="date"
                label={own.from}
                value={first}
                error={wrong && own.tooLong}
                onChange={(event) => setFrom(event.currentTarget.value)}
              />
              <TextInput
                type="date"
                label={own.to}
                value={last}
                onChange={(event) => setTo(event.currentTarget.value)}
              />
            </Group>
            <NativeSelect
              label={own.format}
              value={format}
              onChange={(event) => setFormat(event.currentTarget.value as Format)}
              data={FORMATS.map((value) => ({ value, label: own[value] }))}
            />
            <ProblemAlert error={start.error} />
            <Group justify="flex-end">
              <Button type="submit" loading={start.isPending}>
                {own.start}
              </Button>
            </Group>
          </Stack>
        </form>
        <Files opened={opened} />
      </Stack>
    </Modal>
  );
}

function Files({ opened }: { opened: boolean }) {
  const own = useTexts(exportTexts);
  const files = useExports(opened);
  return (
    <section aria-label={own.files}>
      <Text fw={600} size="sm" mb="xs">
        {own.files}
      </Text>
      <ProblemAlert error={files.error} retry={() => files.refetch()} />
      {files.data?.data.length === 0 && (
        <Text size="sm" c="dimmed">
          {own.none}
        </Text>
      )}
      <Stack gap="sm" aria-live="polite">
        {files.data?.data.map((file) => (
          <FileRow key={file.id} file={file} />
        ))}
      </Stack>
    </section>
  );
}

function FileRow({ file }: { file: Export }) {
  const own = useTexts(exportTexts);
  const { locale } = useLocale();
  const fetching = useMutation({ mutationFn: download });
  const range = formatPeriod(file.period.starts_at, file.period.ends_at, locale);
  const rows = formatNumber(file.rows, locale);
  const said: Record<string, string> = {
    Waiting: own.waiting,
    Running: own.writing(rows),
    Ready: own.rows(rows, formatBytes(file.bytes, locale)),
    Failed: own.failed,
    Expired: own.expired,
  };
  return (
    <div>
      <Group justify="space-between" wrap="nowrap">
        <div>
          <Text size="sm" fw={500}>
            {range} ({file.format})
          </Text>
          <Text size="sm" c={file.status === 'Failed' ? 'var(--mantine-color-error)' : 'dimmed'}>
            {said[file.status]}
          </Text>
        </div>
        {file.status === 'Ready' && (
          <Button
            size="compact-sm"
            variant="light"
            flex="none"
            leftSection={<DownloadIcon size={16} />}
            loading={fetching.isPending}
            aria-label={own.downloadOf(`${range} (${file.format})`)}
            onClick={() => fetching.mutate(file)}
          >
            {own.download}
          </Button>
        )}
      </Group>
      {isUnderWay(file) && (
        <Progress value={file.progress * 100} animated mt={6} aria-label={own.progress} />
      )}
      <ProblemAlert error={fetching.error} />
    </div>
  );
}
