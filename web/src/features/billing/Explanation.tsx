// SPDX-License-Identifier: Apache-2.0
import { Button, Code, Group, Modal, Stack, Table, Text, Title } from '@mantine/core';
import { useDisclosure } from '@mantine/hooks';
import { formatInstant, formatMoney, formatNumber, formatUnitPrice } from '@/ui/format';
import { type Locale, useLocale, useTexts } from '@/ui/i18n';
import { RowsLoading } from '@/ui/Loading';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { wordTexts } from '@/ui/words';
import { accountTexts, explainTexts, stepTexts } from './explainTexts';
import { type Explanation, type Line, useExplanation } from './invoices';

/** Opens the calculation of a line. */
export function WhyButton({ id, line }: { id: string; line: Line }) {
  const own = useTexts(explainTexts);
  const words = useTexts(wordTexts);
  const [opened, { open, close }] = useDisclosure();
  return (
    <>
      <Button
        size="compact-sm"
        variant="subtle"
        onClick={open}
        aria-label={own.whyLine(line.description)}
      >
        {own.why}
      </Button>
      <Modal
        opened={opened}
        onClose={close}
        title={own.why}
        size="lg"
        closeButtonProps={{ 'aria-label': words.close }}
      >
        {opened && <Calculation id={id} line={line} />}
      </Modal>
    </>
  );
}

function Calculation({ id, line }: { id: string; line: Line }) {
  const found = useExplanation(id, line.position);
  return (
    <Stack gap="lg">
      <Text fw={600}>{line.description}</Text>
      <ProblemAlert error={found.error} retry={() => found.refetch()} />
      {found.isPending && <RowsLoading />}
      {found.data && <Parts of={found.data} />}
    </Stack>
  );
}

function Parts({ of }: { of: Explanation }) {
  const own = useTexts(explainTexts);
  const steps: Record<string, string> = useTexts(stepTexts);
  const accounts: Record<string, string> = useTexts(accountTexts);
  const { locale } = useLocale();
  return (
    <>
      <Code block>{of.formula}</Code>
      {of.plan_version && (
        <Text size="sm" c="dimmed">
          {own.version(of.plan_version.name, of.plan_version.number, of.rules_version)}
        </Text>
      )}
      <Part title={own.steps}>
        {of.steps.map((step) => (
          <Row
            key={step.name}
            label={stepName(step.name, steps, own)}
            value={stepValue(step, of.line, locale)}
          />
        ))}
      </Part>
      {of.hours.length > 0 && (
        <Part title={own.hours} scroll>
          {of.hours.map((cell) => (
            <Row
              key={cell.hour}
              label={formatInstant(cell.hour, locale)}
              value={formatNumber(cell.quantity, locale)}
            />
          ))}
        </Part>
      )}
      {of.hours_left_out > 0 && (
        <Text size="sm" c="dimmed">
          {own.leftOut(of.hours_left_out)}
        </Text>
      )}
      {of.events.length > 0 && (
        <Part title={own.events} scroll>
          {of.events.map((event) => (
            <Row
              key={event.event_id}
              label={eventLabel(event, locale)}
              value={formatNumber(event.quantity, locale)}
            />
          ))}
        </Part>
      )}
      <Part title={own.ledger}>
        {of.ledger.map((entry) => (
          <Row
            key={entry.sequence}
            label={own.moved(
              accountName(entry.debit, accounts),
              accountName(entry.credit, accounts),
            )}
            value={formatMoney(entry.amount, locale)}
          />
        ))}
      </Part>
    </>
  );
}

const COUNTED = new Set(['used', 'included', 'billable', 'billed_before', 'packages']);
const PRICED = new Set(['unit_price', 'exact']);

function stepName(name: string, steps: Record<string, string>, own: typeof explainTexts.en) {
  const tier = name.startsWith('tier_') ? own.tier(name.slice('tier_'.length)) : name;
  return steps[name] ?? tier;
}

/** A step's number as people write it; a tier is a text of several. */
function stepValue({ name, value }: Explanation['steps'][number], line: Line, locale: Locale) {
  if (COUNTED.has(name)) return formatNumber(value, locale);
  if (PRICED.has(name)) return formatUnitPrice(value, line.amount.currency, locale);
  return name === 'amount' ? formatMoney(line.amount, locale) : value;
}

/** An account of the books in words; the cash of a payment provider by its name. */
function accountName(account: string, names: Record<string, string>): string {
  const [kind = '', provider] = account.split(':');
  return provider ? `${names[kind] ?? kind} (${provider})` : (names[kind] ?? kind);
}

function eventLabel(event: Explanation['events'][number], locale: Locale): string {
  return [formatInstant(event.occurred_at, locale), event.method, event.status].join(' ');
}

type PartProps = { title: string; scroll?: boolean; children: React.ReactNode };

function Part({ title, scroll, children }: PartProps) {
  const region = scroll
    ? {
        tabIndex: 0,
        role: 'region',
        'aria-label': title,
        style: { maxHeight: 220, overflow: 'auto' },
      }
    : {};
  return (
    <div>
      <Title order={3} size="h6" mb={4}>
        {title}
      </Title>
      <div {...region}>
        <Table aria-label={title}>
          <Table.Tbody>{children}</Table.Tbody>
        </Table>
      </div>
    </div>
  );
}

function Row({ label, value }: { label: string; value: string }) {
  return (
    <Table.Tr>
      <Table.Th scope="row" fw={400}>
        <Group gap={4}>{label}</Group>
      </Table.Th>
      <Table.Td ta="right">{value}</Table.Td>
    </Table.Tr>
  );
}
