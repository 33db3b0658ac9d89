/* The commit protocol of a move, as Sources/Migration does it, with everything that can befall two hosts.
 *
 * One unit, one move from a source (s…) to a destination (d…). Names are the code's. What happens between two steps
 * that others can see is one d_step; a daemon, a host, a connection or the wire can end between any two of them, any
 * number of times. `check` beside this file says which runs must hold and which must fail, and runs them.
 *
 * Wire: one TLS connection a move (conn, toD, toS), so nothing on it is doubled or overtaken. Each question has a
 * connection of its own, so a question, or a commit that waits in a buffer, may be read arbitrarily late. When a
 * connection is cut, what was sent may still be read, or is lost. `abort` and `failure` do here what a cut does: each
 * receiver treats them alike.
 * Disk: a record (sJournal, dJournal, moves/ID: dMoved) survives; drop-ins (/run) and processes end with their host;
 * the table of decisions ends with its daemon.
 * Left out: a record that cannot be written (before the commit it is a roll-back; after it the code goes on and asks
 * again after its next start), the address probe (a second guard; -DPROBE adds it), a second move of the unit.
 *
 * The rules of docs/protocol.md can be left out, one macro each (the code keeps all but the last, which is for
 * `resolve`):
 *   NO_ATOMIC_DECISION  the record moves/ID and the table's decision are two steps; a question fits in between
 *   NO_GUEST_RECORD     a destination has no record that the arriving unit is the source's: it may start it afresh
 *   NO_HANDOVER         `askRunning` answers, but the one who answers keeps its own right to start
 *   NO_SYNC             the directory is not synced after the rename: a host that loses power may lose the last record
 *   NO_CONFIRMATION     a destination that restarts does not ask whether the source's administrator has resolved
 * NO_START leaves out what systemd may start afresh. Each MUTANT is a wrong protocol that a run must find out.
 */
#ifndef MUTANT
#define MUTANT 0
#endif

mtype:message = { prepare, prepared, image, ready, commit, committed };
mtype:process = { gone, frozen, running };
mtype:record = { none, here, inDoubt, departed, arrived };  /* arrived: here, and the source has not confirmed yet */
mtype:connection = { unmade, up, cut };
mtype:decision = { undecided, isCommitted, isAbandoned };
mtype:question = { free, sent, looked, answered };
mtype:start = { no, asking, allowed, granted };
mtype:step = { down, idle,
  sPreparing, sFrozen, sReady, sRecorded, sCommitting, sAsking, sNo, sYes, sRolling, sEnding, sUnstaging,
  dArriving, dComplete, dCommit, dRecorded, dDecided, dOwning, dAnswering, dSettling, dUndoing, dStopping, dUnstaging };

/* The source: host and drop-in, what the thread of its daemon does, processes, journal, a start under way. */
bool sHost = true, sDropIn, moved;
mtype:step sAt = idle;
mtype:process sProcess = running;
mtype:record sJournal = here;
mtype:start sStart = no;
/* The destination. */
bool dHost = true, dDropIn, dMoved;
mtype:step dAt = idle;
mtype:process dProcess = gone;
mtype:record dJournal = none;
mtype:start dStart = no;
mtype:decision table = undecided;
/* The wire. */
bool wire = true;
mtype:connection conn = unmade;
chan toD = [2] of { mtype:message };
chan toS = [2] of { mtype:message };
#define NOBODY 2                          /* live: the question whose answer the source awaits */
mtype:question query[2] = free;
bool says[2]; byte live = NOBODY;
/* What befalls them. */
bool calm;                                /* from here on nothing breaks any more, and what is broken is mended */
bool onSource;                            /* in the calm, the host on which a start is tried again and again */
bool proof, gaveUp;                       /* the administrator's */
mtype:decision told = undecided;          /* ghost: what an answer has said */

#define sUp (sAt != down)
#define dUp (dAt != down)
#define reachable (wire && dUp)           /* a new connection to the destination can be made */
#define quiet (sProcess != running || dProcess != running)
#define one (!sDropIn && !dDropIn && \
  (sProcess == running && dProcess == gone || sProcess == gone && dProcess == running))

#ifdef NO_SYNC                            /* the last record may be lost with the host */
mtype:record sOld = here, dOld = none; bool dMovedOld;
#define keepS sOld = sJournal;
#define keepD dOld = dJournal; dMovedOld = dMoved;
#else
#define keepS
#define keepD
#endif
#ifdef NO_CONFIRMATION
#define ARRIVED here
#else
#define ARRIVED arrived
#endif
inline sRecord(state) { keepS sJournal = state }
inline dRecord(state) { keepD dJournal = state }
inline dRecordMove(value) { keepD dMoved = value }

/* Properties 4 and 5; COPIES leaves them out, so that a trail goes on to two running copies. */
#ifdef COPIES
#define stands(condition) skip
#else
#define stands(condition) assert(condition)
#endif
/* Property 1. */
inline sRun() { sProcess = running; assert(quiet) }
inline dRun() { dProcess = running; assert(quiet) }

inline drainD() { do :: toD?prepare :: toD?image :: toD?commit :: empty(toD) -> break od }
inline drainS() { do :: toS?prepared :: toS?ready :: toS?committed :: empty(toS) -> break od }
inline hangUp() { if :: conn == up -> conn = cut :: else fi }

/* SourceMove, SourceFreeze, SourceCommit, and the source's part of Recovery. */
active proctype Source() {
end:
  do
  /* perform(): one move in a run; stageDeparture(), prepare */
  :: d_step { sAt == idle && sJournal == here && sProcess == running && !moved && reachable ->
       moved = true; conn = up; sDropIn = true; toD!prepare; sAt = sPreparing }
  :: d_step { sAt == sPreparing && nempty(toS) && sProcess == running ->   /* freezeAndSend() */
       toS?prepared; sProcess = frozen;
       if :: conn == up -> toD!image; sAt = sFrozen :: else -> sAt = sRolling fi }
  :: d_step { sAt == sFrozen && nempty(toS) -> toS?ready; sAt = sReady }
  /* any failure before the commit: a cut, a time-out, a failed step, a cancellation, a record that is not written */
  :: d_step { (sAt == sPreparing || sAt == sFrozen || sAt == sReady) &&
       (!calm || conn == cut || sProcess == gone) -> sAt = sRolling }
  /* commit(): the record comes before the word */
#if MUTANT == 3                           /* the word before the record */
  :: d_step { sAt == sReady && conn == up -> toD!commit; sAt = sRecorded }
  :: d_step { sAt == sRecorded -> sRecord(inDoubt); sAt = sCommitting }
#else
  :: d_step { sAt == sReady ->            /* mutant 6: departed before the answer */
       sRecord((MUTANT == 6 -> departed : inDoubt)); sAt = sRecorded }
  :: d_step { sAt == sRecorded && conn == up -> toD!commit; sAt = sCommitting }
#endif
  :: d_step { sAt == sRecorded && conn == cut -> sAt = sAsking }
  :: d_step { sAt == sCommitting && nempty(toS) -> toS?committed; sAt = sYes }
  :: d_step { sAt == sCommitting && (!calm || conn == cut) ->
       sAt = (MUTANT == 4 -> sNo : sAsking) }       /* mutant 4: the service resumes when the wire breaks */
  /* askOutcome(): a question on a connection of its own, again until it is answered */
  :: d_step { sAt == sAsking && live == NOBODY && reachable && (query[0] == free || query[1] == free) ->
       live = (query[0] == free -> 0 : 1); query[live] = sent }
  :: d_step { sAt == sAsking && live != NOBODY && query[live] == answered ->
       sAt = (says[live] -> sYes : sNo); query[live] = free; live = NOBODY; proof = false }
  :: d_step { sAt == sAsking && live != NOBODY && (!calm || query[live] == free) ->
       live = NOBODY; sAt = (MUTANT == 13 -> idle : sAsking) }               /* mutant 13: one question only */
#if MUTANT == 10                          /* who cannot be asked has not committed */
  :: d_step { sAt == sAsking && !reachable -> live = NOBODY; sAt = sNo }
#endif
  :: d_step { sAt == sNo -> sRecord(here); sAt = sRolling }
  :: d_step { sAt == sRolling ->                                           /* FrozenService.rollBack() */
       if :: sProcess == frozen -> sRun() :: else fi; sAt = sUnstaging }
  :: d_step { sAt == sYes -> sRecord(departed); sAt = sEnding }            /* finish() */
  :: d_step { sAt == sEnding ->
       if
       :: sProcess == frozen -> sProcess = gone; stands(dMoved || gaveUp)  /* property 5: what ends here lives there */
       :: else
       fi;
       sAt = sUnstaging }
  :: d_step { sAt == sUnstaging -> sDropIn = false; hangUp(); drainS(); sAt = idle }
  od
}

/* Recovery.init and run(), on the source. */
inline sRecover() {
  if
  :: sJournal == inDoubt -> sAt = (MUTANT == 7 -> sNo : sAsking)            /* mutant 7: doubt is forgotten */
  :: sJournal == here && sDropIn -> sAt = sRolling
  :: sJournal == departed && sDropIn && MUTANT != 15 -> sAt = sEnding       /* mutant 15: departed means done */
  :: else -> sAt = idle
  fi
}

/* DestinationMove, Arrival, Settling, and the destination's part of Recovery. */
active proctype Destination() {
end:
  do
  /* receive(): the unit must be inactive; Arrival.prepare() */
  :: d_step { dAt == idle && nempty(toD) ->
       toD?prepare;
       if
       :: dProcess == gone && dStart == no && conn == up ->
#ifndef NO_GUEST_RECORD
            dRecord(departed);            /* it is the source's until the commit */
#endif
            dDropIn = true; dProcess = frozen; toS!prepared; dAt = dArriving
       :: else -> hangUp(); drainD()
       fi }
  /* takeImage() */
  :: d_step { dAt == dArriving && nempty(toD) ->
       toD?image; if :: conn == up -> toS!ready; dAt = dComplete :: else -> dAt = dUndoing fi }
  :: d_step { dAt == dComplete && nempty(toD) -> toD?commit; dAt = dCommit }
  :: d_step { (dAt == dArriving || dAt == dComplete) && (!calm || conn == cut) -> dAt = dUndoing }
  /* commit() */
#if MUTANT == 5                           /* the service runs before the record */
  :: d_step { dAt == dCommit && table != isAbandoned -> table = isCommitted; dRun(); dAt = dRecorded }
  :: d_step { dAt == dCommit && table == isAbandoned -> dAt = dUndoing }
  :: d_step { dAt == dRecorded -> dRecordMove(true); dAt = dDecided }
#elif MUTANT == 2                         /* questions are answered before the record is on disk */
  :: d_step { dAt == dCommit && table != isAbandoned -> table = isCommitted; dAt = dRecorded }
  :: d_step { dAt == dCommit && table == isAbandoned -> dAt = dUndoing }
  :: d_step { dAt == dRecorded -> dRecordMove(true); dAt = dDecided }
#elif MUTANT == 1                         /* the decision is not looked up */
  :: d_step { dAt == dCommit -> dRecordMove(true); dAt = dDecided }
#elif defined(NO_ATOMIC_DECISION)
  :: d_step { dAt == dCommit -> dRecordMove(true); dAt = dRecorded }
  :: d_step { dAt == dRecorded && table != isAbandoned -> table = isCommitted; dAt = dDecided }
  :: d_step { dAt == dRecorded && table == isAbandoned -> dRecordMove(false); dAt = dUndoing }
#else
  :: d_step { dAt == dCommit && table != isAbandoned -> dRecordMove(true); table = isCommitted; dAt = dDecided }
  :: d_step { dAt == dCommit && table == isAbandoned -> dAt = dUndoing }
#endif
  /* run(); after a crash finishArrival() */
  :: d_step { dAt == dDecided -> dRecord(ARRIVED); dAt = dOwning }
  :: d_step { dAt == dOwning ->
       stands(told != isAbandoned);       /* property 4: what has been answered stands */
       if :: dProcess == frozen -> dRun() :: else fi; dAt = dAnswering }
  :: d_step { dAt == dAnswering -> if :: conn == up -> toS!committed :: else fi; dAt = dSettling }
#if MUTANT == 16                          /* a wire that breaks after the commit undoes the arrival */
  :: d_step { dAt == dOwning && conn == cut -> dAt = dUndoing }
#endif
  :: d_step { dAt == dSettling -> dDropIn = false; dAt = idle }
  /* a roll-back: the decision first; after a crash undoArrival() */
  :: d_step { dAt == dUndoing -> if :: table == undecided -> table = isAbandoned :: else fi; dAt = dStopping }
  :: d_step { dAt == dStopping ->
       stands(told != isCommitted);       /* property 4 */
       dProcess = gone; dAt = dUnstaging }
  :: d_step { dAt == dUnstaging -> dDropIn = false; hangUp(); drainD(); dAt = idle }
#ifndef NO_CONFIRMATION
  /* Who has arrived asks its source now and then, until the source has departed. */
  :: d_step { dAt == idle && dJournal == arrived && reachable && sUp && sJournal == departed -> dRecord(here) }
#endif
  od
}

inline dRecover() {
  if
  :: dDropIn && dMoved -> dAt = (MUTANT == 9 -> dUndoing : dDecided)        /* mutants: recovery does not look */
  :: dDropIn && !dMoved -> dAt = (MUTANT == 8 -> dDecided : dUndoing)
  :: else -> dAt = idle
  fi
}

/* answerQuery(): a thread for each question. */
inline tell(i, value) {
  says[i] = value; query[i] = answered;
  stands(told == undecided || (told == isCommitted) == value);             /* property 4 */
  told = (value -> isCommitted : isAbandoned)
}
active [2] proctype Answers() {
  byte i = _pid - 2;                      /* the third and fourth process */
end:
  do
  :: d_step { dUp && query[i] == sent && dMoved -> tell(i, true) }
#if MUTANT == 11                          /* the question does not close the door */
  :: d_step { dUp && query[i] == sent && !dMoved -> tell(i, false) }
#else
#ifdef NO_ATOMIC_DECISION
  :: d_step { dUp && query[i] == sent && !dMoved -> query[i] = looked }
  :: d_step { dUp && query[i] == looked ->
#else
  :: d_step { dUp && query[i] == sent && !dMoved ->
#endif
       if :: table == undecided -> table = isAbandoned :: else fi;
       tell(i, (table == isCommitted)) }
#endif
  :: d_step { query[i] == answered && live != i -> query[i] = free }       /* nobody waits for it any more */
  od
}

#ifndef NO_START
/* systemd starts the unit afresh, at a boot or by hand: mayStart(), askElsewhere(), answerRunning(), claimAddress(). */
#define sBusy (sProcess != gone || sStart != no)
#define dBusy (dProcess != gone || dStart != no || dDropIn)
#ifdef NO_HANDOVER
#define sMayBe sBusy
#else
#define sMayBe (sBusy || sDropIn || sJournal == inDoubt && MUTANT != 14)     /* mutant 14: given away in doubt */
#endif
#ifdef PROBE                              /* a host that is frozen for a move is silent, and so is one cut off */
#define probed(process) !(wire && process == running)
#else
#define probed(process) true
#endif
active proctype SourceStarts() {
end:
  do
  :: d_step { sUp && !sBusy && (!calm || onSource) &&  /* mutant 12: doubt is no reason not to start */
       (sJournal == here || MUTANT == 12 && sJournal == inDoubt) -> sStart = granted }
  :: d_step { sUp && !sBusy && (!calm || onSource) && sJournal == departed && reachable -> sStart = asking }
  :: d_step { sStart == asking && reachable ->
       if
       :: dBusy -> sStart = no
       :: else -> sStart = allowed;
#ifndef NO_HANDOVER
            dRecord(departed)
#endif
       fi }
  :: d_step { sStart == allowed -> sRecord(here); sStart = granted }       /* reclaim() */
  :: d_step { sStart == granted -> sStart = no; if :: probed(dProcess) -> sRun() :: else fi }
  :: d_step { (sStart == asking || sStart == allowed) && !calm -> sStart = no }
  od
}
active proctype DestinationStarts() {
end:
  do
  :: d_step { dUp && !dBusy && (!calm || !onSource) && (dJournal == here
#ifdef NO_GUEST_RECORD
       || dJournal == none && sJournal == inDoubt   /* before that it is as where a unit has never moved */
#endif
       ) -> dStart = granted }
  :: d_step { dUp && !dBusy && (!calm || !onSource) && (dJournal == departed || dJournal == arrived) && sUp && wire ->
       dStart = asking }
  :: d_step { dStart == asking && sUp && wire ->
       if
       :: sMayBe -> dStart = no
       :: else -> dStart = allowed;
#ifndef NO_HANDOVER
            sRecord(departed)
#endif
       fi }
  :: d_step { dStart == allowed -> dRecord(here); dStart = granted }
  :: d_step { dStart == granted -> dStart = no; if :: probed(sProcess) -> dRun() :: else fi }
  :: d_step { (dStart == asking || dStart == allowed) && !calm -> dStart = no }
  od
}
#endif

/* What befalls the two. Time goes on even where nothing happens: spin does not see a fair end as a cycle. */
#if defined(LIVE) || defined(LOST)
active proctype Time() { do :: calm -> skip od }
#endif
inline sCrash() {
  hangUp(); drainS(); live = NOBODY; sAt = down;
  if :: sStart != granted -> sStart = no :: else fi
}
inline dCrash() {
  hangUp(); drainD(); table = undecided; query[0] = free; query[1] = free; dAt = down;
  if :: dStart != granted -> dStart = no :: else fi
}
active proctype Fate() {
  if :: dJournal = none :: dJournal = departed fi;     /* it was never here, or it has come from here */
end:
  do
  :: d_step { !calm && conn == up -> conn = cut }
  :: d_step { !calm && wire -> wire = false }
  :: d_step { !calm && sUp -> sCrash() }
  :: d_step { !calm && dUp -> dCrash() }
  :: d_step { !calm && sHost -> sCrash(); sHost = false; sProcess = gone; sDropIn = false; sStart = no }
  :: d_step { !calm && dHost -> dCrash(); dHost = false; dProcess = gone; dDropIn = false; dStart = no }
#ifdef NO_SYNC
  :: d_step { !calm && !sHost -> sJournal = sOld }
  :: d_step { !calm && !dHost -> dJournal = dOld; dMoved = dMovedOld }
#endif
  :: d_step { !calm && sProcess == running -> sProcess = gone }            /* the service ends, or is stopped */
  :: d_step { !calm && dProcess == running -> dProcess = gone }
  :: d_step { !sHost -> sHost = true }
  :: d_step { sHost && !sUp -> sRecover() }
#ifdef LOST                               /* in the calm, the destination is never seen again */
  :: d_step { !calm && !dHost -> dHost = true }
  :: d_step { !calm && dHost && !dUp -> dRecover() }
  :: d_step { !calm && !wire -> wire = true }
  :: d_step { !calm && !dHost -> calm = true; onSource = true; wire = false }
#else
  :: d_step { !dHost -> dHost = true }
  :: d_step { dHost && !dUp -> dRecover() }
  :: d_step { !wire -> wire = true }
#ifdef LIVE
  :: d_step { !calm -> calm = true; onSource = true }
  :: d_step { !calm && dJournal != none -> calm = true; onSource = false } /* not where it never was */
#endif
#endif
  od
}

#ifdef RESOLVE
/* mobilityctl resolve UNIT --keep|--give-up --other-host-is-off. The proof is had once and used later. */
active proctype Administrator() {
end:
  do
#ifdef WRONG                              /* he says so although the other host runs */
  :: d_step { sAt == sAsking && !proof -> proof = true }
#else
  :: d_step { sAt == sAsking && !proof && !dHost -> proof = true }
#endif
  :: d_step { sAt == sAsking && proof -> proof = false; live = NOBODY; sRecord(here); sAt = sRolling }
#ifdef KEEP_DEPARTED                      /* the rule for a unit in doubt, used for one that has departed */
  :: d_step { sAt == idle && sJournal == departed && sProcess == gone && !dHost -> sRecord(here) }
#endif
#ifndef LOST
  :: d_step { sAt == sAsking && proof -> proof = false; live = NOBODY; gaveUp = true; sRecord(departed); sAt = sEnding }
#endif
  od
}
#endif

#if defined(LIVE) && defined(NO_START)
/* Property 2, the commit alone: once nothing breaks any more, no process stays frozen and nothing stays in doubt. */
ltl settles { [] (calm -> <> [] (sAt == idle && dAt == idle && sProcess != frozen && dProcess != frozen &&
  sJournal != inDoubt)) }
#elif defined(LIVE)
/* Property 2: whatever state it was in, once nothing breaks any more the service runs on exactly one host. */
ltl heals { [] (calm -> <> [] one) }
#endif
#ifdef LOST
/* Property 2: in doubt for ever ends with the administrator's word, or with an answer that was on its way. */
ltl resolved { [] ((calm && sJournal == inDoubt) -> <> (sProcess == running || sJournal == departed)) }
#endif
