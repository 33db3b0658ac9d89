import BusContract

/// A call to mobilityd that failed, as the bus reported it.
public struct MobilityError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The error's name on the bus, `org.mobilityd1.NoSuchService` or one of the bus's own.
    public let name: String
    public let message: String

    public init(name: String, message: String) {
        self.name = name
        self.message = message
    }

    /// The code, if the error is one of mobilityd's.
    public var code: FaultCode? { FaultCode(busName: name) }

    /// mobilityd does not run and could not be started, or the bus itself cannot be reached.
    public var isUnavailable: Bool {
        Self.unavailable.contains(name)
    }

    private static let unavailable: Set<String> = [
        "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner",
        "org.freedesktop.DBus.Error.NoServer", "org.freedesktop.DBus.Error.FileNotFound",
        "org.freedesktop.DBus.Error.Disconnected", "org.freedesktop.DBus.Error.NoReply",
        "org.freedesktop.DBus.Error.Spawn.ChildExited", "org.freedesktop.systemd1.NoSuchUnit",
        "org.freedesktop.systemd1.UnitMasked",
    ]

    /// Refused by the bus policy or by sd-bus.
    public var isAccessDenied: Bool {
        code == .notAuthorized || name == "org.freedesktop.DBus.Error.AccessDenied"
            || name == "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
    }

    /// What a program that passes the failure on ends with; see `FaultCode.exitStatus`.
    public var exitStatus: Int32 {
        if let code { return code.exitStatus }
        if isUnavailable { return 69 }
        return isAccessDenied ? FaultCode.notAuthorized.exitStatus : 1
    }

    /// What a person can do about it; empty if that is not known.
    public var remedy: String {
        if let code { return code.remedy }
        if isUnavailable { return "See `systemctl status mobilityd`." }
        return isAccessDenied ? FaultCode.notAuthorized.remedy : ""
    }

    public var description: String { message.isEmpty ? name : message }

    static func malformed(_ member: String, _ signature: String) -> MobilityError {
        MobilityError(
            name: "org.freedesktop.DBus.Error.InvalidSignature",
            message: "\(member) answered with '\(signature)', which this client does not understand")
    }
}
