// SPDX-License-Identifier: Apache-2.0
import { List, Text, Title } from '@mantine/core';
import { Link, Outlet } from '@tanstack/react-router';
import { Brand } from '@/ui/Brand';
import { texts, useTexts } from '@/ui/i18n';
import { CheckIcon } from '@/ui/icons';
import { Preferences } from '@/ui/Preferences';
import { SkipLink } from '@/ui/SkipLink';
import { wordTexts } from '@/ui/words';
import classes from './public.module.css';

const pitchTexts = texts(
  {
    title: 'Every call counted. Every cent explained.',
    keys: 'A key in minutes, for test and live apart',
    usage: 'Your use within seconds, not at the end of the month',
    invoices: 'Invoices you can trace back to the calls that made them',
  },
  {
    title: 'Elke aanroep geteld. Elke cent verklaard.',
    keys: 'Binnen enkele minuten een sleutel, voor test en live apart',
    usage: 'Uw verbruik binnen seconden, niet pas aan het einde van de maand',
    invoices: 'Facturen die u kunt herleiden tot de aanroepen zelf',
  },
);

/** Around the pages for visitors: a form on one side, what Nimbus is on the other. */
export function PublicLayout() {
  const own = useTexts(pitchTexts);
  const words = useTexts(wordTexts);
  return (
    <div className={classes.page}>
      <SkipLink />
      <div className={classes.formSide}>
        <header className={classes.header}>
          <Link to="/sign-in" aria-label={`Nimbus: ${words.home}`} className={classes.brand}>
            <Brand />
          </Link>
          <Preferences />
        </header>
        <main id="content" tabIndex={-1} className={classes.main}>
          <div className={classes.form}>
            <Outlet />
          </div>
        </main>
      </div>
      <aside className={classes.pitch}>
        <div className={classes.pitchText}>
          <Title order={2} className={classes.pitchTitle}>
            {own.title}
          </Title>
          <List
            spacing="md"
            mt="xl"
            icon={
              <span className={classes.tick}>
                <CheckIcon size={16} />
              </span>
            }
          >
            {[own.keys, own.usage, own.invoices].map((point) => (
              <List.Item key={point}>
                <Text c="inherit">{point}</Text>
              </List.Item>
            ))}
          </List>
        </div>
        <Skyline />
      </aside>
    </div>
  );
}

// Bars as calls an hour: decoration, hidden from assistive technology.
function Skyline() {
  const heights = [18, 26, 22, 34, 46, 40, 58, 66, 52, 74, 88, 70, 62, 80, 96, 84, 72, 90];
  return (
    <svg viewBox="0 0 360 110" className={classes.skyline} aria-hidden="true">
      {heights.map((height, place) => (
        <rect
          // biome-ignore lint/suspicious/noArrayIndexKey: the bars never move
          key={place}
          x={place * 20 + 3}
          y={110 - height}
          width="14"
          height={height}
          rx="4"
          fill="#fff"
          opacity={0.1 + place * 0.016}
        />
      ))}
    </svg>
  );
}
