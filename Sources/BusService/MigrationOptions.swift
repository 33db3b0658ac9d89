import BusContract

/// The options dictionary `a{sv}` of `MigrateUnit`, `Migrate` and `DrainNode`. An unknown key is an error.
public struct MigrationOptions: Equatable, Sendable {
    /// `wait` b: answer the call only when the migration is over.
    public var wait = false
    /// `downtime-target` t, microseconds: go on with pre-copy until this is reached; nil for the backend's default.
    public var downtimeTargetMicroseconds: UInt64?
    /// `allow-loss` b: go on although connections that are not on a virtual address will break.
    public var allowLoss = false
    /// `dry-run` b: everything up to the freeze, then roll back.
    public var dryRun = false
    /// `destination` s, only for `DrainNode`: the node that takes the services; empty for any.
    public var destination = ""

    public init() {}

    /// One permitted key and the signature of its value.
    struct Key: Sendable {
        let name: String
        let signature: String
        let apply: @Sendable (inout MigrationOptions, IncomingValue) -> Void
    }

    static let migrateKeys: [Key] = [
        Key(name: "wait", signature: "b") { $0.wait = $1.boolean },
        Key(name: "downtime-target", signature: "t") { $0.downtimeTargetMicroseconds = $1.unsigned },
        Key(name: "allow-loss", signature: "b") { $0.allowLoss = $1.boolean },
        Key(name: "dry-run", signature: "b") { $0.dryRun = $1.boolean },
    ]
    static let drainKeys: [Key] =
        migrateKeys + [Key(name: "destination", signature: "s") { $0.destination = $1.text }]

    /// Reads the dictionary at the message's position.
    static func read(_ message: Incoming, keys: [Key]) throws -> MigrationOptions {
        var options = MigrationOptions()
        try message.enter("a", "{sv}")
        while try message.tryEnter("e", "sv") {
            let name = try message.string()
            let signature = try message.variantSignature()
            let allowed = keys.map { "\($0.name) (\($0.signature))" }.joined(separator: ", ")
            guard let key = keys.first(where: { $0.name == name }) else {
                throw BusFault(.invalidOption, "unknown option '\(name)'; allowed are \(allowed)")
            }
            guard key.signature == signature else {
                throw BusFault(.invalidOption, "option '\(name)' has type '\(signature)'; allowed are \(allowed)")
            }
            key.apply(&options, try message.variant(signature))
            try message.leave()
        }
        try message.leave()
        return options
    }
}
